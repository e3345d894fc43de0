//! The results of a run: printed as they arrive, and drawn as a self-contained page.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use crate::spread::Spread;
use crate::table::Table;
use crate::{Result, in_context};

/// One scenario's results.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// The quantity whose ratios the bars show.
    pub(crate) bars: String,
    pub(crate) table: Table,
    /// A bar for each row of the table: its ratio to the first row.
    pub(crate) ratios: Vec<Spread>,
    /// A remark on this measurement.
    pub(crate) note: Option<String>,
}

/// The page of a run, if it was requested.
#[derive(Debug)]
pub(crate) struct Report {
    file: Option<PathBuf>,
    charts: Vec<Chart>,
}

impl Report {
    /// Fails before the measurements if the file cannot be written.
    pub(crate) fn new(file: Option<&str>) -> Result<Report> {
        if let Some(path) = file {
            File::create(path).map_err(in_context(format!("cannot write {path}")))?;
        }
        Ok(Report { file: file.map(fs::canonicalize).transpose()?, charts: Vec::new() })
    }

    pub(crate) fn add(&mut self, chart: Chart) {
        chart.table.print(&chart.title);
        if let Some(note) = &chart.note {
            println!("  {note}");
        }
        self.charts.push(chart);
    }

    /// Writes the page.
    pub(crate) fn finish(self) -> Result<()> {
        if let Some(file) = &self.file {
            fs::write(file, self.page()?)?;
            println!("\nwrote {}", file.display());
        }
        Ok(())
    }

    fn page(&self) -> Result<String> {
        let mut page = String::from(HEAD);
        page += "<dl>";
        for (name, value) in circumstances() {
            write!(page, "<dt>{name}</dt><dd>{}</dd>", escaped(&value))?;
        }
        page += "</dl>\n";
        for chart in &self.charts {
            draw(&mut page, chart)?;
        }
        page += "</html>\n";
        Ok(page)
    }
}

/// The place, time and conditions of the measurements.
fn circumstances() -> [(&'static str, String); 5] {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<&str> =
        processors.lines().filter_map(|line| line.strip_prefix("model name")).collect();
    let model =
        models.first().map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']));
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    [
        ("Command", format!("{COMMAND} {}", arguments.join(" "))),
        ("Couplet", env!("CARGO_PKG_VERSION").into()),
        ("Machine", format!("{model}, processors: {}", models.len().max(1))),
        (
            "Kernel",
            format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
        ),
        ("Date", date()),
    ]
}

const COMMAND: &str = "cargo bench -p couplet-core --bench side_by_side --";

fn date() -> String {
    let output = Command::new("date").args(["-u", "+%F %T UTC"]).output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or_else(|| "unknown".into(), |text| text.trim().into())
}

/// The longest bar, as a ratio; a longer bar is truncated, with a toothed end.
const LONGEST: f64 = 4.0;

fn draw(page: &mut String, chart: &Chart) -> Result<()> {
    let [heads, rows @ ..] = chart.table.rows.as_slice() else {
        return Ok(());
    };
    let base = rows.first().map_or("", |row| &row[0]);
    let about = format!("{}, ratio to {base}; less is better", chart.bars);
    writeln!(page, "<h2>{}</h2>\n<p>{}</p>", escaped(&chart.title), escaped(&about))?;
    let most = chart.ratios.iter().map(|ratio| ratio.most).fold(1.25, f64::max);
    let percent = |ratio: f64| 100.0 * ratio / most.min(LONGEST);
    page.push_str("<div class=chart>\n");
    for (row, ratio) in rows.iter().zip(&chart.ratios) {
        let ours = if row[0].starts_with("couplet") { " ours" } else { "" };
        let cut = if ratio.median > LONGEST { " cut" } else { "" };
        let (least, most) = (percent(ratio.least).min(100.0), percent(ratio.most).min(100.0));
        writeln!(
            page,
            "<b>{}</b><div class=track><i class='bar{ours}{cut}' style='width:{:.1}%'></i>\
             <i class=spread style='left:{least:.1}%;width:{:.1}%'></i>\
             <i class=one style='left:{:.1}%'></i></div>\
             <span>{:.2} <small>({:.2}–{:.2})</small></span>",
            escaped(&row[0]),
            percent(ratio.median).min(100.0),
            most - least,
            percent(1.0),
            ratio.median,
            ratio.least,
            ratio.most,
        )?;
    }
    page.push_str("</div>\n");
    if let Some(note) = &chart.note {
        writeln!(page, "<p class=note>{}</p>", escaped(note))?;
    }
    page.push_str("<details><summary>All figures</summary><div class=wide><table>\n");
    for (row, cell) in std::iter::once((heads, "th")).chain(rows.iter().map(|row| (row, "td"))) {
        page.push_str("<tr>");
        for text in row {
            write!(page, "<{cell}>{}</{cell}>", escaped(text))?;
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div></details>\n");
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = r#"<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width">
<title>Servers side by side</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --pale: #eceef1; --bar: #8a94a3;
        --ours: #1668b8; --line: #c0392b; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --paper: #15171a; --pale: #262a30; --bar: #727d8d; --ours: #4c9be8;
          --line: #ff8a75; }
}
body { color: var(--ink); background: var(--paper); font: 15px/1.45 system-ui, sans-serif;
       max-width: 60em; margin: 2em auto; padding: 0 1em; }
h2 { font-size: 1.1em; margin: 2.2em 0 0; }
p { margin: .2em 0 .7em; }
.note { color: var(--line); }
dl, .chart { display: grid; gap: .3em 1em; align-items: center; }
dl { grid-template-columns: max-content 1fr; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
.chart { grid-template-columns: 10.5em 1fr 10.5em; font-variant-numeric: tabular-nums; }
.chart b { font-weight: 500; text-align: right; }
.track { position: relative; height: 1.15em; background: var(--pale); }
.track i { position: absolute; top: 0; bottom: 0; }
.bar { left: 0; background: var(--bar); }
.bar.ours { background: var(--ours); }
.bar.cut { clip-path: polygon(0 0, 100% 0, 98.5% 25%, 100% 50%, 98.5% 75%, 100% 100%, 0 100%); }
.track .spread { top: calc(50% - 1px); bottom: auto; height: 2px; background: var(--ink); }
.track .one { width: 0; border-left: 2px dotted var(--line); }
details { margin-top: .6em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .15em .7em; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr:nth-child(odd) td { background: var(--pale); }
</style>
<h1>Servers side by side</h1>
<p>Each name tells the server's read buffer. A bar is the median over the rounds, each server set
against the first one of the same round; the thin line runs from the least to the most. The dotted
line is a ratio of 1, and a bar with a toothed end is longer than there is room for.</p>
"#;
