//! What `on_load` hooks are given.

use crate::Raw;

/// What an `on_load` hook is given.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The bundle's name.
    pub bundle: &'a str,
    /// How many times the bundle has been loaded, this time included.
    pub generation: u32,
    /// The value that the previous generation's `on_unload` returned, at a
    /// reload; [`Raw::decode`] makes a Rust type of it.
    pub state: Option<Raw<'a>>,
}
