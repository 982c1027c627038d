//! Moments, as people read them.

/// Milliseconds since 1970 as a day and a time, in UTC.
pub(crate) fn moment(ms: u64) -> String {
    let (year, month, day) = date(ms / 86_400_000);
    let seconds = ms / 1000 % 86_400;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02} UTC")
}

/// Year, month and day of what is so many days after 1970-01-01. It counts from the first
/// of March of the year 0: so a leap day is the last of its year, and of its 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months of 31 and 30 days in turn, with two of 31 in sequence: 153 days in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (400 * era + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_moments_have_their_day() {
        for (seconds, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(seconds * 1000 + 999), shown);
        }
        // Whatever a supervisor says, it is no reason to panic.
        moment(u64::MAX);
    }

    #[test]
    fn g_every_day_is_followed_by_the_next() {
        let mut before = date(0);
        for days in 1..150_000 {
            let (year, month, day) = date(days);
            let next = match before {
                (y, m, d) if (year, month) == (y, m) => day == d + 1,
                (y, m, 28..=31) if (year, day) == (y, 1) => month == m + 1,
                (y, 12, 31) => (year, month, day) == (y + 1, 1, 1),
                _ => false,
            };
            assert!(next, "{before:?}, {:?}", (year, month, day));
            before = (year, month, day);
        }
    }
}
