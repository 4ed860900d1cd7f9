//! A volume that exists is changed: it grows (`expand`).

pub mod expand;
