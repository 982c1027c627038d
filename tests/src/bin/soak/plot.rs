//! A plot as SVG.

use std::fmt::Write;

use crate::run::Series;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 36.0;
const TOP: f64 = 28.0;
const COLOURS: [&str; 2] = ["#1f77b4", "#d62728"];

/// Memory over rounds, from zero: a slope is seen for what it is. A broken line
/// stands where the warm-up ends.
pub(crate) fn svg(title: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let most_x = points().map(|p| p.0).fold(1.0, f64::max);
    let most_y = points().map(|p| p.1).fold(1.0, f64::max) * 1.1;
    let x = |value: f64| LEFT + value / most_x * (WIDTH - LEFT - 12.0);
    let y = |value: f64| HEIGHT - BOTTOM - value / most_y * (HEIGHT - BOTTOM - TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{title}: resident memory of the worker</text>\n"
    );
    for step in 0..=4 {
        let value = most_y * f64::from(step) / 4.0;
        let (at, mib) = (y(value), value / f64::from(1 << 20));
        let end = WIDTH - 12.0;
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{end}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mib:.0} MiB</text>\n",
            LEFT - 6.0,
            at + 4.0,
        );
    }
    for step in 0..=4 {
        let value = most_x * f64::from(step) / 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value:.0}</text>",
            x(value),
            HEIGHT - BOTTOM + 16.0,
        );
    }
    let rounds = series.iter().map(|series| series.rounds).max().unwrap_or(0);
    let warm = x(series.iter().map(Series::warm_at).fold(0.0, f64::max));
    let foot = HEIGHT - BOTTOM;
    let _ = write!(
        out,
        "<line x1=\"{warm:.1}\" y1=\"{TOP}\" x2=\"{warm:.1}\" y2=\"{foot}\" stroke=\"#999\" \
         stroke-dasharray=\"4\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\">warm-up until here</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{rounds} rounds of each</text>\n",
        warm + 4.0,
        foot - 6.0,
        x(most_x / 2.0),
        HEIGHT - 4.0,
    );
    for (at, (series, colour)) in series.iter().zip(COLOURS).enumerate() {
        let line: Vec<String> =
            series.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        #[allow(clippy::cast_precision_loss, reason = "two")]
        let place = 320.0 + 150.0 * at as f64;
        let _ = write!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>\n\
             <text x=\"{place}\" y=\"18\" fill=\"{colour}\">{}</text>\n",
            line.join(" "),
            series.what.name(),
        );
    }
    out.push_str("</svg>\n");
    out
}
