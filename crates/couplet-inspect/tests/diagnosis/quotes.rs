//! The lines that `docs/diagnosis.md` quotes of each program, and whether a state has them. Numbers
//! are compared as such only: any number will do.

#![allow(dead_code, reason = "each test binary uses a part")]

use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../../docs/diagnosis.md");

/// Flags about the time that calls take, which a slow machine raises for healthy programs too.
const OF_TIME: [&str; 5] = ["held", "busy", "slow", "late", "spinning"];

/// The lines about one program.
pub(crate) struct Quote {
    pub(crate) flags: Vec<String>,
    rows: Vec<Row>,
}

/// A row of a view: the columns that the document shows.
struct Row {
    view: String,
    cells: Vec<(String, String)>,
}

impl Quote {
    /// The block after the link to a program.
    pub(crate) fn of(program: &str) -> Quote {
        let (_, section) = DOCUMENT.split_once(&format!("/{program}.rs)")).expect("a link");
        let (_, block) = section.split_once("```text\n").expect("a block");
        let (block, _) = block.split_once("\n```").expect("its end");
        let is_flag = |line: &&str| line.starts_with("RED ") || line.starts_with("YELLOW ");
        let flags = block.lines().filter(is_flag).map(masked).collect();
        let mut rows = Vec::new();
        let (mut view, mut columns) = ("", Vec::new());
        for line in block.lines().filter(|line| !is_flag(line)) {
            match line.strip_prefix("  ") {
                None => (view, columns) = (line, Vec::new()),
                Some(line) if columns.is_empty() => columns = cells(line),
                Some(line) => {
                    let cells = columns.iter().map(|column| column.to_lowercase()).zip(cells(line));
                    rows.push(Row { view: view.to_owned(), cells: cells.collect() });
                }
            }
        }
        let quote = Quote { flags, rows };
        assert!(!quote.flags.is_empty() && !quote.rows.is_empty(), "{program}: nothing is quoted");
        quote
    }

    /// The quoted rows that a state does not have.
    pub(crate) fn missing_rows(&self, state: &Value) -> Vec<String> {
        let missing = self.rows.iter().filter(|row| !row.is_in(&state["views"]));
        missing.map(|row| format!("{}: {:?}", row.view, row.cells)).collect()
    }

    /// The differences between the quoted flags and a state's, apart from flags about time that are
    /// not quoted.
    pub(crate) fn different_flags(&self, flags: &Value) -> Vec<String> {
        let shown = flag_lines(flags, |_| true);
        let missing = self.flags.iter().filter(|flag| !shown.contains(flag));
        let missing = missing.map(|flag| format!("missing: {flag}"));
        let surplus = flag_lines(flags, |id| !OF_TIME.contains(&id));
        let surplus = surplus.into_iter().filter(|flag| !self.flags.contains(flag));
        missing.chain(surplus.map(|flag| format!("not quoted: {flag}"))).collect()
    }

    /// The flags of a healthy program that are quoted or are not about time: there should be none.
    pub(crate) fn unhealthy(&self, flags: &Value) -> Vec<String> {
        let titles: Vec<_> = self.flags.iter().filter_map(|flag| flag.split(':').next()).collect();
        let of_time = flag_lines(flags, |id| OF_TIME.contains(&id));
        let of_time =
            of_time.into_iter().filter(|flag| titles.iter().any(|title| flag.starts_with(title)));
        let others = flag_lines(flags, |id| !OF_TIME.contains(&id));
        others.into_iter().chain(of_time).collect()
    }
}

impl Row {
    fn is_in(&self, views: &Value) -> bool {
        let rows = views[&self.view].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().any(|row| self.cells.iter().all(|(column, cell)| shown(&row[column]) == *cell))
    }
}

/// The flags as `couplet inspect` prints them, without their remedies.
fn flag_lines(flags: &Value, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let flags = flags.as_array().expect("flags").iter();
    let flags = flags.filter(|flag| {
        let id = flag["id"].as_str().and_then(|id| id.split_once('.'));
        id.is_some_and(|(_, rule)| is_wanted(rule))
    });
    let line = |flag: &Value| {
        let text = |field: &str| flag[field].as_str().expect("a text").to_owned();
        let severity = text("severity").to_uppercase();
        masked(&format!("{severity} {}: {} ({})", text("title"), text("words"), text("threshold")))
    };
    flags.map(line).collect()
}

/// The cells of a line, which at least two spaces separate.
fn cells(line: &str) -> Vec<String> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(masked).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => masked(text),
        other => masked(&other.to_string()),
    }
}

/// A text with `#` in place of numbers and their units, and without the folders of places.
pub(crate) fn masked(text: &str) -> String {
    let words: Vec<_> = text.split(' ').map(masked_word).collect();
    let mut masked = words.join(" ");
    for unit in ["ms", "s", "min", "h", "bytes", "KiB", "MiB", "GiB", "%"] {
        for end in [" ", ",", ";", ":", ")"] {
            masked = masked.replace(&format!("# {unit}{end}"), &format!("#{end}"));
        }
        if let Some(before) = masked.strip_suffix(&format!("# {unit}")) {
            masked = format!("{before}#");
        }
    }
    masked
}

fn masked_word(word: &str) -> String {
    let word = match word.contains(".rs:") {
        true => word.rsplit('/').next().unwrap_or(word),
        false => word,
    };
    let mut masked = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        masked.push_str(&rest[..at]);
        masked.push('#');
        let number = |c: char| c.is_ascii_digit() || c == '.';
        let end = rest[at..].find(|c| !number(c)).map_or(rest.len(), |end| at + end);
        rest = &rest[end..];
    }
    masked + rest
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn numbers_and_folders_are_left_out() {
        let text = "held at crates/a/b.rs:12:5 for 3.2 s, of connection 1.7.3; 64 KiB unsent";
        assert_eq!(masked(text), "held at b.rs:#:# for #, of connection #; # unsent");
        assert_eq!(masked("one for 31.0 s (longer than 30.0 s)"), "one for # (longer than #)");
        assert_eq!(masked("since 2 min"), "since #");
    }
}
