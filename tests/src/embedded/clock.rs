//! Dates as Qdrant prints them, without a calendar library.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as RFC 3339 with microseconds.
pub(crate) fn now() -> String {
    format(SystemTime::now())
}

/// A time as RFC 3339 with microseconds.
pub(crate) fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (date, [hour, minute, second]) = civil(since.as_secs());
    format!("{}T{hour:02}:{minute:02}:{second:02}.{:06}Z", date_text(date), since.subsec_micros())
}

/// A time as it stands in the name of a snapshot.
pub(crate) fn file_stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (date, [hour, minute, second]) = civil(since.as_secs());
    format!("{}-{hour:02}-{minute:02}-{second:02}", date_text(date))
}

fn date_text((year, month, day): (i64, u64, u64)) -> String {
    format!("{year:04}-{month:02}-{day:02}")
}

/// Days since 1970 to a date: counts in 400-year eras that begin on the first of March.
fn civil(seconds: u64) -> ((i64, u64, u64), [u64; 3]) {
    let day_seconds = seconds % 86_400;
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = i64::try_from(year_of_era + era * 400).unwrap_or(i64::MAX) + i64::from(month <= 2);
    ((year, month, day), [day_seconds / 3_600, day_seconds / 60 % 60, day_seconds % 60])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(format(UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        let leap = UNIX_EPOCH + Duration::from_micros(1_709_210_096_000_007);
        assert_eq!(format(leap), "2024-02-29T12:34:56.000007Z");
        assert_eq!(file_stamp(leap), "2024-02-29-12-34-56");
    }
}
