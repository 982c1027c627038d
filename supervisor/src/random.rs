//! Random numbers, from the kernel.

/// Random bytes, at most 256: getrandom(2) gives so many at once. It needs no
/// descriptor, which a host may have run out of.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256) };
    let mut bytes = [0; N];
    // SAFETY: points to `N` bytes that may be written.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    // Without random numbers a token would be a guess.
    assert_eq!(got.cast_unsigned(), N, "getrandom: {}", std::io::Error::last_os_error());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_need_no_descriptor() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
        let (first, second) = (token(), token());
        let fraction = fraction();
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert_eq!((first.len(), second.len()), (32, 32));
        assert_ne!(first, second);
        assert!((0.0..=1.0).contains(&fraction));
    }
}
