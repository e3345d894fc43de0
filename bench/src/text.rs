//! Tables for a terminal or a pipe: plain text, with a bar for each server.

use crate::results::{LONGEST, Outcome, cell, figure};

/// The longest bar, in characters; it stands for the largest ratio, or for [`LONGEST`].
const WIDTH: f64 = 24.0;

/// The results of a scenario as lines.
pub(crate) fn table(outcome: &Outcome) -> String {
    let base = outcome.rows.first().map_or("", |row| &row.server);
    let most = outcome.rows.iter().map(|row| row.ratio.median).fold(1.0, f64::max).min(LONGEST);
    let heads = ["server", "", &outcome.lead, "ratio", "(least-most)"];
    let mut rows = vec![heads.map(String::from).to_vec()];
    rows[0].extend(outcome.columns.iter().cloned());
    for row in &outcome.rows {
        let ratio = row.ratio;
        let range = format!("({:.2}-{:.2})", ratio.least, ratio.most);
        let ratio = format!("{:.2}", ratio.median);
        let bar = bar(row.ratio.median, most);
        let mut cells = vec![row.server.clone(), bar, figure(row.lead.median), ratio, range];
        cells.extend(row.cells.iter().map(|&value| cell(value)));
        rows.push(cells);
    }
    let about = format!("{}; ratios to {base}, less is better", outcome.lead);
    let mut text = format!("\n{}: {}\n{about}\n", outcome.name, outcome.title);
    text += &aligned(&rows);
    if let Some(note) = &outcome.note {
        text += &format!("  {note}\n");
    }
    text
}

fn bar(ratio: f64, most: f64) -> String {
    let length = (WIDTH * ratio.min(LONGEST) / most).round().max(1.0) as usize;
    match ratio > LONGEST {
        true => "█".repeat(length - 1) + "▶",
        false => "█".repeat(length),
    }
}

/// Lines of aligned columns: the first two to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let widths = rows.iter().map(|row| row[column].chars().count());
            let width = widths.max().unwrap_or(0);
            line += &match column {
                0 | 1 => format!("  {cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::fixed;

    #[test]
    fn a_table_is_plain_text_with_bars() {
        let text = table(&fixed().outcomes[0]);
        assert_eq!(
            text,
            "
ping-50: Ping-pong, connections: 50
CPU us/trip; ratios to couplet, less is better
  server                             CPU us/trip  ratio  (least-most)  trips/s  user %
  couplet  ██████                           4.00   1.00   (1.00-1.00)  123 456    20.0
  raw-16k  █████                            3.60   0.90   (0.88-0.92)  130 000       -
  twisted  ███████████████████████▶         40.0  10.00  (9.50-10.50)   10 000    80.0
  Disturbed.
"
        );
    }
}
