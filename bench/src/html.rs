//! The results as a page that needs no other file, and no script.

use crate::results::{LONGEST, Outcome, Results, cell, figure};

/// The page of a run.
pub(crate) fn page(results: &Results) -> String {
    let about = &results.about;
    let mut page = String::from(HEAD);
    page += "<dl>";
    for (name, value) in [
        ("Command", &about.command),
        ("Couplet", &about.version),
        ("Machine", &about.machine),
        ("Kernel", &about.kernel),
        ("Date", &about.date),
    ] {
        page += &format!("<dt>{name}</dt><dd>{}</dd>", escaped(value));
    }
    page += "</dl>\n";
    for outcome in &results.outcomes {
        draw(&mut page, outcome);
    }
    if !results.missing.is_empty() {
        page += "<h2>Not measured</h2>\n<ul>\n";
        for missing in &results.missing {
            let (server, reason) = (escaped(&missing.server), escaped(&missing.reason));
            page += &format!("<li>{server}: {reason}</li>\n");
        }
        page += "</ul>\n";
    }
    page + "</html>\n"
}

fn draw(page: &mut String, outcome: &Outcome) {
    let base = outcome.rows.first().map_or("", |row| &row.server);
    let lead = escaped(&outcome.lead);
    *page += &format!(
        "<h2>{}: {}</h2>\n<p>{lead}, ratio to {}; less is better</p>\n<div class=chart>\n",
        escaped(&outcome.name),
        escaped(&outcome.title),
        escaped(base)
    );
    let most = outcome.rows.iter().map(|row| row.ratio.most).fold(1.25, f64::max).min(LONGEST);
    let percent = |ratio: f64| (100.0 * ratio / most).min(100.0);
    for row in &outcome.rows {
        let ratio = row.ratio;
        let ours = if row.server.starts_with("couplet") { " ours" } else { "" };
        let cut = if ratio.median > LONGEST { " cut" } else { "" };
        let (least, most) = (percent(ratio.least), percent(ratio.most));
        *page += &format!(
            "<b>{}</b><div class=track><i class='bar{ours}{cut}' style='width:{:.1}%'></i>\
             <i class=spread style='left:{least:.1}%;width:{:.1}%'></i>\
             <i class=one style='left:{:.1}%'></i></div>\
             <span>{:.2} <small>({:.2}–{:.2})</small></span>\n",
            escaped(&row.server),
            percent(ratio.median),
            most - least,
            percent(1.0),
            ratio.median,
            ratio.least,
            ratio.most,
        );
    }
    *page += "</div>\n";
    if let Some(note) = &outcome.note {
        *page += &format!("<p class=note>{}</p>\n", escaped(note));
    }
    *page += "<details><summary>All figures</summary><div class=wide><table>\n<tr>";
    let heads = ["server", &outcome.lead, "ratio", "least", "most"].map(String::from);
    for head in heads.iter().chain(&outcome.columns) {
        *page += &format!("<th>{}</th>", escaped(head));
    }
    for row in &outcome.rows {
        *page += &format!("</tr>\n<tr><td>{}</td>", escaped(&row.server));
        let ratio = row.ratio;
        let ratios = [ratio.median, ratio.least, ratio.most].map(|value| format!("{value:.2}"));
        let cells = row.cells.iter().map(|&value| cell(value));
        for text in [figure(row.lead.median)].into_iter().chain(ratios).chain(cells) {
            *page += &format!("<td>{text}</td>");
        }
    }
    *page += "</tr>\n</table></div></details>\n";
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
<p>A bar is the median over the rounds, each server set against the first one of the same round; the
thin line runs from the least to the most. The dotted line is a ratio of 1, and a bar with a toothed
end is longer than there is room for.</p>
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::fixed;

    #[test]
    fn a_page_needs_no_other_file_and_escapes_text() {
        let page = page(&fixed());
        assert!(page.contains("A &lt;machine&gt;, processors: 2"), "{page}");
        assert!(!page.contains("<script") && !page.contains("http"), "{page}");
        assert_eq!(page.matches("<i class='bar").count(), 3);
        assert_eq!(page.matches("class='bar ours'").count(), 1);
        assert_eq!(page.matches("class='bar cut'").count(), 1);
        assert!(page.contains("<td>0.90</td><td>0.88</td><td>0.92</td>"), "{page}");
    }
}
