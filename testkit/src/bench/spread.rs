//! Medians with their range.

/// The median, minimum and maximum of some values.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Spread {
        let least = values.clone().fold(f64::MAX, f64::min);
        let most = values.clone().fold(0.0, f64::max);
        Spread { least, median: median(values), most }
    }
}

/// The middle value, or the upper of the two in the middle; NaN if there is no value.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_median_is_the_middle_or_the_upper_of_two() {
        let of = |values: &[f64]| {
            let super::Spread { least, median, most } = super::Spread::of(values.iter().copied());
            [least, median, most]
        };
        assert_eq!(of(&[3.0, 1.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), [1.0, 3.0, 4.0]);
        assert_eq!(of(&[7.0]), [7.0, 7.0, 7.0]);
        assert!(super::median(std::iter::empty()).is_nan());
    }
}
