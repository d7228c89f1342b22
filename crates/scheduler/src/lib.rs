//! The scheduler: queue, cluster image, cycle and plugins.
