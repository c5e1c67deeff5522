"""How long sends take (send_times.pxd). Nothing for Python; `Hub.histograms` has the result."""
