//! Times and sizes as people write them: `250ms`, `64MiB`.

use std::time::Duration;

/// Reads a time: a number and `ns`, `us`, `ms`, `s`, `m` or `h`.
///
/// ```
/// use std::time::Duration;
/// use menagerie_supervisor::units;
///
/// assert_eq!(units::duration("1.5s"), Ok(Duration::from_millis(1500)));
/// assert!(units::duration("5").is_err());
/// ```
///
/// # Errors
///
/// What is wrong, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: expected for example \"250ms\", \"2s\" or \"1m\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let seconds = match unit {
        "ns" => number / 1e9,
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// Reads a size: a number and `B`, `KiB`, `MiB` or `GiB`.
///
/// ```
/// assert_eq!(menagerie_supervisor::units::bytes("64MiB"), Ok(64 << 20));
/// ```
///
/// # Errors
///
/// What is wrong, in words.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size: expected for example \"64MiB\" or \"4096B\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => return Err(wrong()),
    };
    let bytes = number * factor;
    // Beyond 2^53 not every whole number can be told from its neighbours.
    if !(0.0..=9_007_199_254_740_992.0).contains(&bytes) {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(bytes.round() as u64)
}

fn split(text: &str) -> Option<(f64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    Some((text[..at].parse().ok()?, &text[at..]))
}

/// Writes a time in the largest unit that takes no fraction.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (divisor, unit) = match nanos {
        0 => (1_000_000_000, "s"),
        n if n % 3_600_000_000_000 == 0 => (3_600_000_000_000, "h"),
        n if n % 60_000_000_000 == 0 => (60_000_000_000, "m"),
        n if n % 1_000_000_000 == 0 => (1_000_000_000, "s"),
        n if n % 1_000_000 == 0 => (1_000_000, "ms"),
        n if n % 1000 == 0 => (1000, "us"),
        _ => (1, "ns"),
    };
    format!("{}{unit}", nanos / divisor)
}

/// Writes a size in the largest unit that takes no fraction.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let (shift, unit) = match bytes {
        0 => (0, "B"),
        n if n.trailing_zeros() >= 30 => (30, "GiB"),
        n if n.trailing_zeros() >= 20 => (20, "MiB"),
        n if n.trailing_zeros() >= 10 => (10, "KiB"),
        _ => (0, "B"),
    };
    format!("{}{unit}", bytes >> shift)
}

/// For serde's `with`: a [`Duration`] as text.
pub(crate) mod time {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::show_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        super::duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }

    /// The same where there may be none.
    pub(crate) mod option {
        use std::time::Duration;

        use serde::{Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(
            value: &Option<Duration>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(time) => super::serialize(time, to),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Duration>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

/// For serde's `with`: a number of bytes as text, or as a plain number.
pub(crate) mod size {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a size, for example \"64MiB\"")]
    enum Size {
        Number(u64),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::show_bytes(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        match Size::deserialize(from)? {
            Size::Number(bytes) => Ok(bytes),
            Size::Text(text) => super::bytes(&text).map_err(D::Error::custom),
        }
    }

    /// The same where there may be none.
    pub(crate) mod option {
        use serde::{Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(
            value: &Option<u64>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(bytes) => super::serialize(bytes, to),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<u64>, D::Error> {
            super::deserialize(from).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_read_what_they_write() {
        for nanos in [0, 1, 1500, 250_000_000, 30_000_000_000, 60_000_000_000, 7_200_000_000_000] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(super::duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 4096, 64 << 20, 3 << 30, 1025] {
            assert_eq!(super::bytes(&show_bytes(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn units_refuse_what_has_none() {
        for bad in ["", "5", "s", "-1s", "2 s", "1e99h", "2d", "1.2.3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "MiB", "-1B", "2 MiB", "1MB", "99999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
