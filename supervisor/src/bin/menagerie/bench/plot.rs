//! The plot of a run: each figure's ratio to its floor, beside its limit.

use super::{Row, Unit};

const LEFT: f64 = 300.0;
const WIDTH: f64 = 420.0;
const LINE: f64 = 22.0;
/// The ratio at the right edge; the axis is logarithmic.
const MOST: f64 = 8.0;
/// The ratio at the left edge.
const LEAST: f64 = 0.25;

fn x(ratio: f64) -> f64 {
    let span = (MOST / LEAST).ln();
    LEFT + WIDTH * ((ratio.clamp(LEAST, MOST) / LEAST).ln() / span)
}

/// Draws the rows that are times.
pub(super) fn svg(rows: &[Row]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.unit == Unit::Nanoseconds).collect();
    let count = u16::try_from(rows.len()).unwrap_or(u16::MAX);
    let height = 60.0 + LINE * f64::from(count) + 30.0;
    let mut out = String::new();
    let mut draw = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    draw(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">"
    ));
    draw("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>".to_owned());
    draw(
        "<text x=\"10\" y=\"22\" font-size=\"15\">Calls, as multiples of what the machine \
         itself needs (less is better)</text>"
            .to_owned(),
    );
    for ratio in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0] {
        let at = x(ratio);
        draw(format!(
            "<line x1=\"{at:.1}\" y1=\"44\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"40\" text-anchor=\"middle\" fill=\"#666\">{ratio}×</text>",
            height - 30.0
        ));
    }
    let mut y = 50.0;
    for row in rows {
        let label = format!("{}: {}", row.group, row.name);
        let middle = y + 14.0;
        let colour = if row.holds() == Some(false) { "#c0504d" } else { "#4f81bd" };
        let (from, to) = (x(LEAST), x(row.ratio));
        draw(format!(
            "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{middle:.1}\">{:.2}×, {}</text>",
            LEFT - 8.0,
            escape(&label),
            y + 4.0,
            (to - from).max(1.0),
            LEFT + WIDTH + 10.0,
            row.ratio,
            row.unit.show(row.ours),
        ));
        if let Some(limit) = row.limit {
            let at = x(limit);
            draw(format!(
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"black\" \
                 stroke-width=\"2\"/>",
                y + 2.0,
                y + 18.0
            ));
        }
        y += LINE;
    }
    draw(format!(
        "<text x=\"10\" y=\"{:.1}\" fill=\"#666\">Bars: ratio to the floor of the same turn \
         (median). Black marks: the design's limits.</text>",
        height - 10.0
    ));
    draw("</svg>".to_owned());
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::report::{Turn, row};
    use super::*;

    #[test]
    fn svg_shows_each_time_and_its_limit() {
        let turn = [Turn { ours: 2.0, floor: 1.0 }];
        let rows = [
            row("null", "a < b", Unit::Nanoseconds, "f", Some(1.5), &turn),
            row("rate", "tasks", Unit::CallsPerSecond, "f", None, &turn),
        ];
        let svg = svg(&rows);
        assert!(svg.contains("null: a &lt; b") && !svg.contains("rate"));
        assert!(svg.contains("2.00×") && svg.contains("stroke-width=\"2\""));
        assert!(x(1.0) < x(2.0) && x(100.0) <= LEFT + WIDTH);
    }
}
