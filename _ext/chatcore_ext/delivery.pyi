"""From a log record to the DELIVER frames of its channel, for compiled code only (delivery.pxd)."""
