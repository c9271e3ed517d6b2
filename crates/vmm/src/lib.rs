//! Memory map, device tree, loader, event loop: the virtual machine monitor.
