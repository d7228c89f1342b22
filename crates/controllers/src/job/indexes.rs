//! Sets of completion indexes, as a Job's status writes them: `0,2-5,7`.

use std::fmt;

/// Ranges, both ends included, in order, none touching the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads what is below `completions`. What cannot be read is left out: it was not written by us.
    pub(super) fn parse(text: &str, completions: i64) -> Self {
        let ranges = text.split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (i64, i64) = (first.parse().ok()?, last.parse().ok()?);
            let last = last.min(completions - 1);
            (0 <= first && first <= last).then_some((first, last))
        });
        Self::of_ranges(ranges.collect())
    }

    /// Of single indexes, in any order.
    pub(super) fn of(indexes: impl IntoIterator<Item = i64>) -> Self {
        Self::of_ranges(indexes.into_iter().map(|index| (index, index)).collect())
    }

    fn of_ranges(mut ranges: Vec<(i64, i64)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// What is in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    /// How many there are.
    pub(super) fn count(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn contains(&self, index: i64) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many are in both.
    pub(super) fn count_common(&self, other: &Self) -> i64 {
        let (mut count, mut others) = (0, other.0.as_slice());
        for (first, last) in &self.0 {
            let skip = others.partition_point(|(_, end)| end < first);
            others = &others[skip..];
            let overlapping = others.iter().take_while(|(start, _)| start <= last);
            count += overlapping.map(|(start, end)| end.min(last) - start.max(first) + 1).sum::<i64>();
        }
        count
    }

    /// The lowest `count` indexes below `completions` that are not here.
    pub(super) fn first_absent(&self, count: usize, completions: i64) -> Vec<i64> {
        let mut absent = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            absent.extend((next..first.min(completions)).take(count - absent.len()));
            next = last + 1;
        }
        absent
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_merged_and_written() {
        for (text, written, count) in [
            ("", "", 0),
            ("3", "3", 1),
            ("0,1", "0,1", 2),
            ("0,1,2", "0-2", 3),
            ("5-7,1-2,3", "1-3,5-7", 6),
            ("8-100", "8,9", 2),
            ("100", "", 0),
            ("x,4,-1", "4", 1),
        ] {
            let indexes = Indexes::parse(text, 10);
            assert_eq!((indexes.to_string().as_str(), indexes.count()), (written, count), "{text}");
        }
    }

    #[test]
    fn absent_and_common_indexes_are_found() {
        let indexes = Indexes::parse("1,3-5", 8);
        assert_eq!(indexes.first_absent(3, 8), [0, 2, 6]);
        assert_eq!(indexes.first_absent(9, 8), [0, 2, 6, 7]);
        assert_eq!([0, 1, 2, 3, 5, 6].map(|index| indexes.contains(index)), [false, true, false, true, true, false]);
        assert_eq!(indexes.union(&Indexes::of([2, 7])).to_string(), "1-5,7");
        assert_eq!(indexes.count_common(&Indexes::parse("0-3,5,7", 8)), 3);
    }
}
