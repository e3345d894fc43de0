//! Tables in a Markdown file, between two lines; the file's other text is kept.

use std::fs;
use std::path::{Path, PathBuf};

use crate::outputs::write;
use crate::results::{Outcome, Results, Row, cell, figure};
use crate::{Result, in_context};

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// A file with a place for the tables.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    before: String,
    after: String,
}

impl Document {
    /// Reads a file, or begins one if it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Document> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("# Performance\n\n{BEGIN}\n{END}\n");
                write(path, &text)?;
                text
            }
            Err(error) => {
                return Err(in_context(format!("cannot read {}", path.display()))(error));
            }
        };
        let (before, after) = split(&text).ok_or_else(|| {
            format!("{} has no lines `{BEGIN}` and `{END}` for the tables", path.display())
        })?;
        Ok(Document { path: path.into(), before: before.into(), after: after.into() })
    }

    /// The text with these results.
    pub(crate) fn with(&self, results: &Results) -> String {
        let Document { before, after, .. } = self;
        format!("{before}{BEGIN}\n{}{END}{after}", tables(results))
    }
}

/// The text before and after the tables.
fn split(text: &str) -> Option<(&str, &str)> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some((before, after))
}

/// All tables, the losses first.
fn tables(results: &Results) -> String {
    let about = &results.about;
    let mut text = format!(
        "\n| command | `{}` |\n| --- | --- |\n| version | {} |\n| machine | {} |\n| kernel | {} |\n\
         | date | {} |\n",
        about.command, about.version, about.machine, about.kernel, about.date
    );
    if !about.load_apart {
        text += "\nLoad and servers shared one processor: the rates mean little.\n";
    }
    text += &losses(results);
    for outcome in &results.outcomes {
        text += &table(outcome);
    }
    if !results.missing.is_empty() {
        text += "\n## Not measured\n\n";
        for missing in &results.missing {
            text += &format!("- {}: {}\n", missing.server, missing.reason);
        }
    }
    text.push('\n');
    text
}

/// The servers of others that beat Couplet in the leading figure.
fn losses(results: &Results) -> String {
    let mut text = String::from(
        "\n## Losses\n\nEvery server of others that needs less than `couplet`, the epoll driver.\n\n",
    );
    let mut rows = String::new();
    for outcome in &results.outcomes {
        let Some(ours) = outcome.rows.iter().find(|row| row.server == "couplet") else { continue };
        let others = outcome.rows.iter().filter(|row| !row.server.starts_with("couplet"));
        for row in others.filter(|row| row.ratio.median < ours.ratio.median) {
            rows += &loss(outcome, row, ours);
        }
    }
    if rows.is_empty() {
        return text + "None in this run.\n";
    }
    text += "| scenario | quantity | server | its figure | couplet | couplet needs |\n\
             | --- | --- | --- | ---: | ---: | ---: |\n";
    text + &rows
}

fn loss(outcome: &Outcome, row: &Row, ours: &Row) -> String {
    format!(
        "| {} | {} | {} | {} | {} | {:+.0} % |\n",
        outcome.name,
        outcome.lead,
        row.server,
        figure(row.lead.median),
        figure(ours.lead.median),
        100.0 * (ours.ratio.median / row.ratio.median - 1.0)
    )
}

fn table(outcome: &Outcome) -> String {
    let base = outcome.rows.first().map_or("", |row| &row.server);
    let mut text = format!("\n## {}\n\n{}.\n\n", outcome.name, capital(&outcome.title));
    let mut heads = vec!["server".to_owned(), outcome.lead.clone(), format!("/ {base}")];
    heads.push("least–most".into());
    // A machine may lack the means to measure a column.
    let value = |row: &Row, at: usize| row.cells.get(at).copied().flatten();
    let measured = |&at: &usize| outcome.rows.iter().any(|row| value(row, at).is_some());
    let columns: Vec<usize> = (0..outcome.columns.len()).filter(measured).collect();
    heads.extend(columns.iter().map(|&at| outcome.columns[at].clone()));
    text += &format!("| {} |\n| --- |{}\n", heads.join(" | "), " ---: |".repeat(heads.len() - 1));
    for row in &outcome.rows {
        let name = match row.server.starts_with("couplet") {
            true => format!("**{}**", row.server),
            false => row.server.clone(),
        };
        let ratio = row.ratio;
        let range = format!("{:.2}–{:.2}", ratio.least, ratio.most);
        let mut cells = vec![name, figure(row.lead.median), format!("{:.2}", ratio.median), range];
        cells.extend(columns.iter().map(|&at| cell(value(row, at))));
        text += &format!("| {} |\n", cells.join(" | "));
    }
    if let Some(note) = &outcome.note {
        text += &format!("\n{note}\n");
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::fixed;

    #[test]
    fn the_losses_come_first_and_name_the_winner() {
        let text = tables(&fixed());
        let loss = "| ping-50 | CPU us/trip | raw-16k | 3.60 | 4.00 | +11 % |\n";
        let at = text.find(loss).expect("the loss");
        assert!(at < text.find("\n## ping-50\n").expect("the table"), "{text}");
        assert!(!text.contains("| ping-50 | CPU us/trip | twisted"), "{text}");
    }

    #[test]
    fn a_table_has_all_figures() {
        let text = tables(&fixed());
        for line in [
            "| server | CPU us/trip | / couplet | least–most | trips/s | user % |\n",
            "| **couplet** | 4.00 | 1.00 | 1.00–1.00 | 123 456 | 20.0 |\n",
            "| raw-16k | 3.60 | 0.90 | 0.88–0.92 | 130 000 | - |\n",
            "\nDisturbed.\n",
            "- go: go is not installed\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_column_without_a_figure_is_left_out() {
        let mut results = fixed();
        results.outcomes[0].rows.iter_mut().for_each(|row| row.cells[1] = None);
        let text = tables(&results);
        assert!(text.contains("| least–most | trips/s |\n"), "{text}");
        assert!(text.contains("| **couplet** | 4.00 | 1.00 | 1.00–1.00 | 123 456 |\n"), "{text}");
    }

    #[test]
    fn text_outside_of_the_two_lines_is_kept() {
        let folder = crate::folder::Folder::new().expect("a folder");
        let path = folder.write("p.md", format!("# A\n\n{BEGIN}\nold\n{END}\n\nB\n")).expect("it");
        for _ in 0..2 {
            write(&path, &Document::open(&path).expect("valid").with(&fixed())).expect("written");
            let text = fs::read_to_string(&path).expect("it");
            assert!(text.starts_with(&format!("# A\n\n{BEGIN}\n\n| command |")), "{text}");
            assert!(text.ends_with(&format!("\n{END}\n\nB\n")), "{text}");
            assert!(!text.contains("old"), "{text}");
        }
    }

    #[test]
    fn a_file_without_the_two_lines_is_an_error() {
        let folder = crate::folder::Folder::new().expect("a folder");
        for text in ["", "# A\n", BEGIN, END] {
            let path = folder.write("p.md", text).expect("it");
            assert!(Document::open(&path).is_err(), "{text:?}");
        }
        assert!(Document::open(&folder.path().join("new.md")).is_ok());
    }
}
