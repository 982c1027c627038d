//! How `menagerie top` looks.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Sparkline, Table};

use super::model::{BundleRow, Model, WorkerRow};
use crate::moment::moment;
use crate::render::{mebibytes, micros, uptime};

const SOFT: Style = Style::new().fg(Color::DarkGray);

pub(crate) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let workers = u16::try_from(model.workers.len()).unwrap_or(u16::MAX).saturating_add(3);
    let [head, chart, upper, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Length(workers.min(12)),
        Constraint::Min(4),
        Constraint::Length(2),
    ])
    .areas(frame.area());
    frame.render_widget(header(model), head);
    rates(frame, model, chart);
    frame.render_widget(worker_table(&model.workers), upper);
    frame.render_widget(bundle_table(&model.bundles, model.scroll), lower);
    frame.render_widget(footer(model), foot);
}

fn header(model: &Model) -> Paragraph<'_> {
    let mut spans = vec![Span::styled("menagerie ", Style::new().add_modifier(Modifier::BOLD))];
    if let Some(status) = &model.status {
        let text =
            format!("{}  process {}  up {}", status.version, status.pid, uptime(status.uptime_ms));
        spans.push(Span::raw(text));
    }
    if let Some(problem) = &model.problem {
        spans.push(Span::styled(format!("  {problem}"), Style::new().fg(Color::Red)));
    }
    Paragraph::new(Line::from(spans))
}

fn rates(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let now = model.rates.back().copied().unwrap_or(0);
    let block = Block::bordered().title(format!("calls/s: {now}"));
    let width = usize::from(area.width.saturating_sub(2));
    let skip = model.rates.len().saturating_sub(width);
    let data: Vec<u64> = model.rates.iter().skip(skip).copied().collect();
    let chart = Sparkline::default().block(block).data(data).style(Style::new().fg(Color::Blue));
    frame.render_widget(chart, area);
}

fn state_style(state: &str) -> Style {
    match state {
        "ready" => Style::new().fg(Color::Green),
        "crashed" | "backoff" | "quarantined" | "failed" => Style::new().fg(Color::Red),
        "starting" | "draining" | "waiting" | "loading" => Style::new().fg(Color::Yellow),
        _ => SOFT,
    }
}

fn dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

fn titles<const N: usize>(titles: [&'static str; N]) -> Row<'static> {
    Row::new(titles).style(Style::new().add_modifier(Modifier::BOLD))
}

fn worker_table(workers: &[WorkerRow]) -> Table<'_> {
    let rows = workers.iter().map(|WorkerRow { status, cpu }| {
        let state = status.state.to_string();
        let style = state_style(&state);
        let crash = status.last_crash.as_ref();
        let crash = crash.map(|crash| format!("{}, {}", crash.cause, moment(crash.time_ms)));
        let problem = status.problem.clone().or(crash);
        Row::new([
            Cell::new(status.name.as_str()),
            Cell::new(state).style(style),
            Cell::new(dash(status.pid, |pid| pid.to_string())),
            Cell::new(dash(status.rss_bytes, mebibytes)),
            Cell::new(dash(*cpu, |cpu| format!("{cpu:.0} %"))),
            Cell::new(status.restarts.to_string()),
            Cell::new(dash(problem, |problem| problem)),
        ])
    });
    let widths = [
        Constraint::Length(14),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Min(10),
    ];
    let last = "problem or last crash";
    Table::new(rows, widths)
        .header(titles(["worker", "state", "process", "memory", "cpu", "restarts", last]))
        .block(Block::bordered().title("workers"))
}

fn bundle_table(bundles: &[BundleRow], scroll: usize) -> Table<'_> {
    let rows = bundles.iter().skip(scroll).map(|row| {
        let status = &row.status;
        let state = format!("{:?}", status.state).to_lowercase();
        let style = state_style(&state);
        let rate = |value: Option<f64>| dash(value, |value| format!("{value:.1}"));
        Row::new([
            Cell::new(status.name.as_str()),
            Cell::new(state).style(style),
            Cell::new(rate(row.calls_per_second)),
            Cell::new(rate(row.failed_per_second)),
            Cell::new(status.calls.in_flight.to_string()),
            Cell::new(dash(status.calls.p50_us, micros)),
            Cell::new(dash(status.calls.p99_us, micros)),
            Cell::new(status.generation.to_string()),
        ])
    });
    let widths = [
        Constraint::Min(14),
        Constraint::Length(10),
        Constraint::Length(11),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(10),
    ];
    let titles =
        titles(["bundle", "state", "calls/s", "failed/s", "in flight", "p50", "p99", "generation"]);
    Table::new(rows, widths).header(titles).block(Block::bordered().title("bundles"))
}

fn footer(model: &Model) -> Paragraph<'_> {
    let crash = match &model.last_crash {
        Some(crash) => {
            let running: Vec<String> = crash.running.iter().map(ToString::to_string).collect();
            let while_ = if running.is_empty() {
                String::new()
            } else {
                format!(", running {}", running.join(", "))
            };
            format!(
                "last crash {}: {} {}{while_}",
                moment(crash.time_ms),
                crash.worker,
                crash.cause
            )
        }
        None => "no crashes".to_owned(),
    };
    let keys = "q quit  ↑↓ scroll  space pause";
    Paragraph::new(vec![Line::raw(crash), Line::styled(keys, SOFT)])
}
