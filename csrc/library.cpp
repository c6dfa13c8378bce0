// The ops: one schema each. What they compute stands in torch_manual_bp/kernels/__init__.py, with shapes and formulas.
//
// activation and kind are the enums of activations.h. No op is registered for autograd: autograd.Functions call them.
#include <torch/csrc/stable/library.h>

// clang-format off
STABLE_TORCH_LIBRARY(torch_manual_bp, m) {
  m.def("bias_act_      (Tensor(a!) z, Tensor? bias, int activation) -> ()");
  m.def("bias_act_keep_ (Tensor(a!) z, Tensor(b!) h, Tensor? bias, int activation) -> ()");
  m.def("bias_act_mask_ (Tensor(a!) z, Tensor? bias, int activation) -> Tensor");
  m.def("act            (Tensor z, int activation) -> Tensor");
  m.def("dact_          (Tensor(a!) dh, Tensor saved, int activation, int kind) -> ()");
  m.def("dact_bias_grad_(Tensor(a!) dh, Tensor saved, int activation, int kind) -> Tensor");
  m.def("cross_entropy_ (Tensor(a!) o, Tensor? bias, Tensor target, Tensor? class_weight, Tensor? row_weight,"
        "                float label_smoothing, int ignore_index, bool mean) -> (Tensor, Tensor)");
  m.def("class_statistics_(Tensor o, Tensor? bias, Tensor target, Tensor? class_weight, int first_class,"
        "                Tensor(a!) statistics) -> ()");
  m.def("class_loss     (Tensor statistics, Tensor target, Tensor? row_weight, int classes, float label_smoothing,"
        "                int ignore_index) -> (Tensor, Tensor)");
  m.def("cross_entropy_classes_(Tensor(a!) o, Tensor? bias, Tensor target, Tensor? class_weight, Tensor? row_weight,"
        "                int first_class, int classes, float label_smoothing, int ignore_index,"
        "                Tensor statistics) -> ()");
  m.def("mse_           (Tensor(a!) o, Tensor? bias, Tensor target, Tensor? row_weight,"
        "                bool mean) -> (Tensor, Tensor)");
  m.def("bce_with_logits_(Tensor(a!) o, Tensor? bias, Tensor target, Tensor? row_weight,"
        "                bool mean) -> (Tensor, Tensor)");
  m.def("sgd_products_  (Tensor(a!)[] w, Tensor[] left, Tensor[] right, float[] w_keep, float[] w_rate,"
        "                Tensor(b!)[] b, Tensor[] db, float[] b_keep, float[] b_rate) -> ()");
  m.def("find_bad_label (Tensor target, int classes, int ignore_index) -> Tensor");
}
// clang-format on

// Python loads the library by importing it as torch_manual_bp._C; the module itself is empty.
#if defined(Py_LIMITED_API)
#include <Python.h>

extern "C" PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
#endif
