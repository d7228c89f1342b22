//! The controllers: one file each, lib.rs is the list.
