//! Random numbers, from the kernel.

use std::io::Read;

/// Random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    // Without random numbers a token would be a guess.
    assert!(read.is_ok(), "/dev/urandom: {read:?}");
    bytes
}

/// 128 random bits in hexadecimal digits.
pub(crate) fn token() -> String {
    bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(bytes())) / f64::from(u32::MAX)
}
