//! Filters of rows: words, `column:word`, and comparisons such as `idle>5s`. A minus sign excludes.

use serde_json::Value;

use super::store::Row;
use crate::inspect::fields::{Column, Kind};

/// A filter of the rows of a view.
#[derive(Debug, Default)]
pub(super) struct Filter {
    tests: Vec<Test>,
    /// The first part that is not understood.
    problem: Option<String>,
}

#[derive(Debug)]
struct Test {
    is_negated: bool,
    check: Check,
}

#[derive(Debug)]
enum Check {
    /// Any field has this text.
    Anywhere(String),
    /// This field has the text.
    Field(String, String),
    Compare {
        key: String,
        kind: Kind,
        is: Comparison,
        than: f64,
    },
}

type Comparison = fn(&f64, &f64) -> bool;

/// Comparisons: the longer ones first.
const OPERATORS: [(&str, Comparison); 5] =
    [(">=", f64::ge), ("<=", f64::le), (">", f64::gt), ("<", f64::lt), ("=", f64::eq)];

impl Filter {
    /// Reads a filter for rows with these columns.
    pub(super) fn parse(text: &str, columns: &[Column]) -> Filter {
        let mut filter = Filter::default();
        for part in text.to_lowercase().split_whitespace() {
            let (is_negated, part) = match part.strip_prefix('-') {
                Some("") | None => (false, part),
                Some(rest) => (true, rest),
            };
            match check(part, columns) {
                Ok(check) => filter.tests.push(Test { is_negated, check }),
                Err(problem) => {
                    filter.problem.get_or_insert(problem);
                }
            }
        }
        filter
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Whether a row matches at a Unix time.
    pub(super) fn matches(&self, row: &Row, unix: f64) -> bool {
        self.tests.iter().all(|test| test.check.matches(row, unix) != test.is_negated)
    }
}

fn check(part: &str, columns: &[Column]) -> Result<Check, String> {
    let end = part.find([':', '>', '<', '=']).unwrap_or(part.len());
    let (name, rest) = part.split_at(end);
    let column = columns.iter().find(|column| {
        let label = column.label.to_lowercase();
        !name.is_empty() && (column.key == name || label.starts_with(name))
    });
    if let Some(text) = rest.strip_prefix(':') {
        // An address has colons too.
        return Ok(match column {
            Some(column) => Check::Field(column.key.clone(), text.to_owned()),
            None => Check::Anywhere(part.to_owned()),
        });
    }
    for (operator, is) in OPERATORS {
        let Some(number) = rest.strip_prefix(operator) else { continue };
        let Some(column) = column else { return Err(format!("no column {name:?}")) };
        let than = quantity(number).ok_or_else(|| format!("{number:?} is not a number"))?;
        return Ok(Check::Compare { key: column.key.clone(), kind: column.kind, is, than });
    }
    Ok(Check::Anywhere(part.to_owned()))
}

impl Check {
    fn matches(&self, row: &Row, unix: f64) -> bool {
        match self {
            Check::Anywhere(text) => row.searchable().contains(text.as_str()),
            Check::Field(key, text) => {
                let value = row.value(key);
                let shown = crate::inspect::fields::format(Kind::Text, value, unix);
                shown.to_lowercase().contains(text.as_str())
            }
            Check::Compare { key, kind, is, than } => {
                let number = number(*kind, row.value(key), unix);
                number.is_some_and(|number| is(&number, than))
            }
        }
    }
}

/// The number that a value is compared and sorted by.
pub(super) fn number(kind: Kind, value: &Value, unix: f64) -> Option<f64> {
    let number = value.as_f64()?;
    Some(match kind {
        Kind::Since => unix - number,
        Kind::Until => number - unix,
        _ => number,
    })
}

/// A number with an optional unit, in lower case, in bytes or seconds.
fn quantity(text: &str) -> Option<f64> {
    let end =
        text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor = match unit.trim_end_matches("/s") {
        "" | "b" | "s" => 1.0,
        "k" | "kb" => 1e3,
        "kib" => 1024.0,
        "mb" => 1e6,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "us" => 1e-6,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inspect::fields::columns;

    fn matches(filter: &str) -> bool {
        let fields = ["id", "peer", "state", "received", "buffered"];
        let filter = Filter::parse(filter, &columns("connections", fields.into_iter()));
        assert_eq!(filter.problem(), None);
        let row = json!({"id": "1.7.1", "peer": "tcp:192.0.2.7:99", "state": "open", "received": 40.0,
            "buffered": 2048, "why": "waits for the peer"});
        filter.matches(&Row::new(row).expect("a row"), 100.0)
    }

    #[test]
    fn rows_match_words_fields_and_comparisons() {
        let yes = "|waits|PEER open|tcp:192.0.2.7|state:open|idle>59s|idle<=1m|buffered>=2kib|\
                   unsent=2048|-closing|-state:closing|-idle>2m|id:1.7|-";
        for filter in yes.split('|') {
            assert!(matches(filter) || filter == "-", "{filter}");
        }
        for filter in
            "lounge|waits lounge|state:closing|idle>61s|unsent<2kib|-open|age>0".split('|')
        {
            let is_unknown = filter == "age>0";
            assert!(is_unknown || !matches(filter), "{filter}");
        }
    }

    #[test]
    fn a_filter_names_unknown_columns_and_bad_numbers() {
        let columns = columns("connections", ["id", "buffered"].into_iter());
        let problem = |text| Filter::parse(text, &columns).problem().map(str::to_owned);
        assert_eq!(problem("colour>5").as_deref(), Some("no column \"colour\""));
        assert_eq!(problem("unsent>big x>1").as_deref(), Some("\"big\" is not a number"));
        assert_eq!(problem("a:b"), None);
    }
}
