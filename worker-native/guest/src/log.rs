//! The macros of the log.

/// Writes into the bundle's log.
///
/// ```
/// use menagerie_guest::{Level, info, log};
///
/// let n = 3;
/// log!(Level::Warn, "{n} images are broken");
/// info!("{n} images"); // as error!, warn!, debug! and trace!
/// ```
#[macro_export]
macro_rules! log {
    ($level:expr, $($message:tt)+) => {
        $crate::log($level, ::core::format_args!($($message)+))
    };
}

/// Logs every step.
#[macro_export]
macro_rules! trace {
    ($($message:tt)+) => { $crate::log!($crate::Level::Trace, $($message)+) };
}

/// Logs what helps to find mistakes.
#[macro_export]
macro_rules! debug {
    ($($message:tt)+) => { $crate::log!($crate::Level::Debug, $($message)+) };
}

/// Logs what happens.
#[macro_export]
macro_rules! info {
    ($($message:tt)+) => { $crate::log!($crate::Level::Info, $($message)+) };
}

/// Logs what looks wrong.
#[macro_export]
macro_rules! warn {
    ($($message:tt)+) => { $crate::log!($crate::Level::Warn, $($message)+) };
}

/// Logs what went wrong.
#[macro_export]
macro_rules! error {
    ($($message:tt)+) => { $crate::log!($crate::Level::Error, $($message)+) };
}
