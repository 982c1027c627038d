//! What `on_load` hooks are given.

use std::path::Path;

use crate::Raw;

/// What an `on_load` hook is given.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use menagerie_guest::{CodecError, Context};
///
/// static COUNT: AtomicU64 = AtomicU64::new(0);
///
/// struct Counter;
///
/// #[menagerie_guest::contract("counter@1")]
/// impl Counter {
///     #[on_load]
///     fn restore(context: Context<'_>) -> Result<(), CodecError> {
///         if let Some(state) = context.state {
///             COUNT.store(state.decode()?, Ordering::Relaxed);
///         }
///         Ok(())
///     }
///
///     #[on_unload]
///     fn save() -> u64 {
///         COUNT.load(Ordering::Relaxed)
///     }
///
///     fn next() -> u64 {
///         COUNT.fetch_add(1, Ordering::Relaxed)
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The bundle's name.
    pub bundle: &'a str,
    /// How many times the bundle has been loaded, this time included.
    pub generation: u32,
    /// The bundle's folder, where files beside the library are: the worker's current
    /// folder is another one. Of a signed bundle, and of one with replicas, it is a
    /// private copy.
    pub dir: &'a Path,
    /// The value that the previous generation's `on_unload` returned, at a
    /// reload; [`Raw::decode`] makes a Rust type of it.
    pub state: Option<Raw<'a>>,
}
