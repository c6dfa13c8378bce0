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
  m.def("scaled         (Tensor g, Tensor factor) -> Tensor");
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
  m.def("find_bad_label (Tensor target, int classes, int ignore_index) -> Tensor");

  // mlp_forward on the CPU alone; the others on CUDA where fits_one_call says so
  m.def("fits_one_call (Tensor x, int hidden, int outputs) -> bool");
  m.def("scratch_bytes (Tensor x, int hidden, int outputs, int activation) -> Tensor");  // on the CPU alone
  m.def("mlp_forward  (Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, int activation) -> Tensor");
  m.def("objective_gradient_(Tensor x, Tensor y, Tensor? row_weight, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2,"
        "                Tensor? class_weight, int activation, int loss, float label_smoothing, int ignore_index,"
        "                bool mean, float weight_decay, float grad_scale, float normalizer, bool add,"
        "                Tensor(a!)? dw1, Tensor(b!)? db1, Tensor(c!)? dw2, Tensor(d!)? db2) -> Tensor");
  m.def("objective_sgd_     (Tensor x, Tensor y, Tensor? row_weight, Tensor(a!) w1, Tensor(b!)? b1, Tensor(c!) w2,"
        "                Tensor(d!)? b2, Tensor? class_weight, int activation, int loss, float label_smoothing,"
        "                int ignore_index, bool mean, float weight_decay, Tensor(e!)[] momentum_buffer, Tensor hyper,"
        "                float clip_norm, bool nesterov) -> Tensor");
  m.def("objective_adam_    (Tensor x, Tensor y, Tensor? row_weight, Tensor(a!) w1, Tensor(b!)? b1, Tensor(c!) w2,"
        "                Tensor(d!)? b2, Tensor? class_weight, int activation, int loss, float label_smoothing,"
        "                int ignore_index, bool mean, float weight_decay, Tensor(e!)[] exp_avg,"
        "                Tensor(f!)[] exp_avg_sq, Tensor(g!)[] step, Tensor hyper, float clip_norm,"
        "                bool decoupled) -> Tensor");
  m.def("sgd_           (Tensor(a!)[] p, Tensor[] g, Tensor(b!)[] momentum_buffer, Tensor hyper, float clip_norm,"
        "                bool nesterov) -> ()");
  m.def("sgd_products_  (Tensor(a!) w1, Tensor(b!)? b1, Tensor(c!) w2, Tensor(d!)? b2, Tensor x, Tensor h, Tensor g,"
        "                Tensor dz, Tensor? db1, Tensor? db2, Tensor hyper, float factor) -> ()");
  m.def("adam_          (Tensor(a!)[] p, Tensor[] g, Tensor(b!)[] exp_avg, Tensor(c!)[] exp_avg_sq, Tensor(d!)[] step,"
        "                Tensor hyper, float clip_norm, bool decoupled) -> ()");
  // the step of w1, b1, … by a number, until it is unbound; step_bound_ writes what bind_ was given
  m.def("bind_sgd       (Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? class_weight, int activation, int loss,"
        "                float label_smoothing, int ignore_index, bool mean, float weight_decay,"
        "                Tensor[] momentum_buffer, Tensor hyper, float clip_norm, bool nesterov) -> int");
  m.def("bind_adam      (Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? class_weight, int activation, int loss,"
        "                float label_smoothing, int ignore_index, bool mean, float weight_decay, Tensor[] exp_avg,"
        "                Tensor[] exp_avg_sq, Tensor[] step, Tensor hyper, float clip_norm, bool decoupled) -> int");
  m.def("step_bound_    (Tensor x, Tensor y, int step) -> Tensor");
  m.def("unbind         (int step) -> ()");
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
