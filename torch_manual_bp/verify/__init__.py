"""Does it compute right on this device? Every op and Function against the float64 equations."""

from .device import Finding, check_device, report

__all__ = ["Finding", "check_device", "report"]
