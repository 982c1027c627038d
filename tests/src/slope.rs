//! Whether a series of measurements grows.

/// A straight line through measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// How much `y` grows with each `x`.
    pub slope: f64,
    /// The slope's standard error, with what neighbours have in common taken
    /// into account: memory goes up in steps, and stays there.
    pub error: f64,
}

impl Fit {
    /// The least-squares line through points; `None` for fewer than five.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a few hundred points")]
    pub fn of(points: &[(f64, f64)]) -> Option<Self> {
        if points.len() < 5 {
            return None;
        }
        let n = points.len() as f64;
        let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / n;
        let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
        let sum = |value: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>();
        let sxx = sum(&|p| (p.0 - mean_x).powi(2));
        if sxx == 0.0 {
            return None;
        }
        let slope = sum(&|p| (p.0 - mean_x) * (p.1 - mean_y)) / sxx;
        let residuals: Vec<f64> =
            points.iter().map(|p| p.1 - mean_y - slope * (p.0 - mean_x)).collect();
        let squares: f64 = residuals.iter().map(|r| r * r).sum();
        let lagged: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
        let common = if squares > 0.0 { (lagged / squares).clamp(0.0, 0.99) } else { 0.0 };
        // So many independent points are worth as much as these.
        let worth = (n * (1.0 - common) / (1.0 + common)).max(3.0);
        let error = (squares / n / sxx * n / (worth - 2.0)).sqrt();
        Some(Self { slope, error })
    }

    /// Whether it grows by more than `tolerance` for each `x`, beyond what
    /// chance does in one of forty.
    #[must_use]
    pub fn grows_by_more_than(&self, tolerance: f64) -> bool {
        self.slope - 2.0 * self.error > tolerance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: u32, y: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..count).map(f64::from).map(|x| (x, y(x))).collect()
    }

    /// Noise that repeats itself, so that the tests do.
    fn noise(x: f64) -> f64 {
        ((x * 12.9898).sin() * 43758.5453).fract() * 1000.0
    }

    #[test]
    fn slope_of_a_line_is_exact() {
        let fit = Fit::of(&points(10, |x| 5.0 + 3.0 * x)).unwrap();
        assert!((fit.slope - 3.0).abs() < 1e-9 && fit.error < 1e-6, "{fit:?}");
        assert!(fit.grows_by_more_than(2.0) && !fit.grows_by_more_than(4.0));
        assert_eq!(Fit::of(&points(4, |x| x)), None);
    }

    #[test]
    fn slope_of_noise_and_of_one_step_is_no_growth() {
        assert!(!Fit::of(&points(200, noise)).unwrap().grows_by_more_than(1.0));
        let step = |x: f64| noise(x) + if x > 100.0 { 4096.0 } else { 0.0 };
        assert!(!Fit::of(&points(200, step)).unwrap().grows_by_more_than(64.0));
    }

    #[test]
    fn slope_of_a_leak_under_noise_is_growth() {
        let leak = |x: f64| noise(x) + 200.0 * x;
        assert!(Fit::of(&points(200, leak)).unwrap().grows_by_more_than(100.0));
        // A leak that shows in steps, because memory comes in pages.
        let pages = |x: f64| (300.0 * x / 4096.0).floor() * 4096.0;
        assert!(Fit::of(&points(200, pages)).unwrap().grows_by_more_than(64.0));
    }
}
