//! Pure functions on JSON values: selectors, quantities, names and patches.
