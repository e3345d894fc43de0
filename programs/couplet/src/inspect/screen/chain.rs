//! The chain of a Deferred as text: a line for each callback, with the time since the beginning.

use serde_json::Value;

use crate::inspect::fields::{seconds, word};

/// The lines of a chain at a Unix time. An older program sends lines.
pub(super) fn lines(chain: &Value, unix: f64) -> Vec<String> {
    if let Value::String(text) = chain {
        return text.lines().map(|line| word(&line.into()).into_owned()).collect();
    }
    let begin = chain["made"].as_f64().or_else(|| chain["ended"].as_f64());
    let mut text = Text { begin, unix, lines: Vec::new() };
    text.chain(chain, 0);
    text.lines
}

struct Text {
    begin: Option<f64>,
    unix: f64,
    lines: Vec<String>,
}

impl Text {
    fn chain(&mut self, chain: &Value, depth: usize) {
        self.line(&chain["made"], depth, &format!("a Deferred made at {}", word(&chain["place"])));
        let result = match chain["state"].as_str() {
            Some("pending") => "has not fired".to_owned(),
            _ => outcome(chain, "got a value"),
        };
        self.line(&chain["ended"], depth, &result);
        self.levels(chain, depth);
        let mut next = "is next";
        for step in chain["steps"].as_array().into_iter().flatten() {
            match step["left_out"].as_u64() {
                Some(count) => {
                    self.line(&Value::Null, depth, &format!("… {count} callbacks left out"));
                }
                None => self.step(step, depth, &mut next),
            }
        }
    }

    fn step(&mut self, step: &Value, depth: usize, next: &mut &'static str) {
        let inner = &step["inner"];
        let lasted = step["called"].as_f64().map(|called| {
            let until = step["ended"].as_f64().unwrap_or(self.unix);
            format!(" for {}", seconds(until - called))
        });
        let lasted = lasted.filter(|_| !inner.is_null()).unwrap_or_default();
        let state = match step["state"].as_str() {
            Some("next") => std::mem::replace(next, "follows").to_owned(),
            Some("running") => "is running".to_owned(),
            Some("skipped") => "was skipped".to_owned(),
            Some("waiting") => format!("waits{lasted}"),
            _ if inner.is_null() => outcome(step, "returned a value"),
            _ => format!("waited{lasted}, {}", outcome(step, "returned a value")),
        };
        let words = format!(
            "{}. {}({}) at {}: {state}",
            word(&step["number"]),
            word(&step["method"]),
            word(&step["name"]),
            word(&step["place"])
        );
        self.line(&step["called"], depth, &words);
        self.levels(step, depth);
        match inner["steps"].is_array() {
            true => self.chain(inner, depth + 1),
            false if inner.is_null() => {}
            false => {
                let words = format!("a Deferred made at {}", word(&inner["place"]));
                self.line(&Value::Null, depth + 1, &words);
            }
        }
    }

    /// The places that a failure has passed.
    fn levels(&mut self, of: &Value, depth: usize) {
        let failure = &of["failure"];
        if failure["levels"].as_array().is_none_or(Vec::is_empty) {
            return;
        }
        let began = format!("    began at {}", word(&failure["place"]));
        let passed = failure["levels"].as_array().into_iter().flatten();
        let passed = passed.map(|place| format!("    passed {}", word(place)));
        for words in [began].into_iter().chain(passed).collect::<Vec<_>>() {
            self.line(&Value::Null, depth, &words);
        }
    }

    fn line(&mut self, at: &Value, depth: usize, words: &str) {
        let passed = at.as_f64().zip(self.begin).map(|(at, begin)| seconds(at - begin));
        let time = passed.map_or_else(String::new, |passed| format!("+{passed}"));
        self.lines.push(format!("{time:>9}  {:indent$}{words}", "", indent = 4 * depth));
    }
}

fn outcome(of: &Value, value: &str) -> String {
    match &of["failure"] {
        Value::Null => value.to_owned(),
        failure => format!("failed: {}", word(&failure["text"])),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_chain_is_lines_with_times() {
        let chain = json!({
            "place": "a.rs:1:1", "made": 100.0, "state": "value", "ended": 100.25,
            "steps": [
                {"number": 1, "method": "add_callback", "name": "parse", "place": "a.rs:2:1",
                    "handles": "values", "called": 100.25, "state": "failed", "ended": 100.25,
                    "failure": {"text": "no\nnumber", "place": "p.rs:1:1", "levels": ["a.rs:3:1"]}},
                {"left_out": 3},
                {"number": 5, "method": "then", "name": "ask", "place": "a.rs:4:1", "called": 100.25,
                    "state": "waiting", "ended": null, "inner": {"place": "b.rs:1:1", "made": 101.0,
                    "state": "pending", "ended": null, "steps": [
                        {"number": 1, "method": "map", "name": "", "place": "b.rs:2:1", "called": null,
                            "state": "next", "ended": null},
                        {"number": 2, "method": "then", "name": "", "place": "b.rs:3:1", "called": null,
                            "state": "next", "ended": null}]}},
                {"number": 6, "method": "then", "name": "", "place": "a.rs:5:1", "called": 90.0,
                    "state": "value", "ended": 92.0, "inner": {"place": "c.rs:1:1"}}
            ]
        });
        let wanted = "    +0 ms  a Deferred made at a.rs:1:1
  +250 ms  got a value
  +250 ms  1. add_callback(parse) at a.rs:2:1: failed: no\u{fffd}number
               began at p.rs:1:1
               passed a.rs:3:1
           … 3 callbacks left out
  +250 ms  5. then(ask) at a.rs:4:1: waits for 3.0 s
   +1.0 s      a Deferred made at b.rs:1:1
               has not fired
               1. map() at b.rs:2:1: is next
               2. then() at b.rs:3:1: follows
    +0 ms  6. then() at a.rs:5:1: waited for 2.0 s, returned a value
               a Deferred made at c.rs:1:1";
        assert_eq!(lines(&chain, 103.25).join("\n"), wanted);
        assert_eq!(lines(&json!("a Deferred\n1. map"), 0.0), ["a Deferred", "1. map"]);
        assert_eq!(lines(&json!(7), 0.0).len(), 2, "of a program with other fields");
    }
}
