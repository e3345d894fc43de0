//! wrk as an HTTP/1.1 client, for a second.

use std::process::Command;

use crate::asked::{CLEAR, over_sockets};

#[test]
fn wrk_is_answered_on_each_connection() {
    needs!("wrk");
    for header in ["X-Other: 1", "Connection: close"] {
        let report = over_sockets(CLEAR, move |port| {
            let mut wrk = Command::new("wrk");
            wrk.args(["-t2", "-c16", "-d1s", "-H", header]);
            let ended = wrk.arg(format!("http://127.0.0.1:{port}/a")).output()?;
            Ok(String::from_utf8(ended.stdout)?)
        });
        // wrk mentions errors only if there were any.
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
        let total = report.lines().find(|line| line.contains(" requests in ")).unwrap_or_default();
        let count = total.split_whitespace().next().and_then(|count| count.parse::<u32>().ok());
        assert!(count > Some(16), "{report}");
    }
}
