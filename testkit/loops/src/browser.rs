//! A browser, driven over WebDriver: JSON over HTTP/1.1, one connection for each request.
//!
//! Source: W3C WebDriver, <https://www.w3.org/TR/webdriver2/>.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use couplet_testkit::needed::has;
use couplet_testkit::processes::Killed;
use serde_json::{Value, json};

/// Milliseconds for which a condition may stay false.
const PATIENCE: u64 = crate::PATIENCE.as_millis() as u64;

/// Functions for the scripts of tests: the text of an element, the rows in sight from top to bottom,
/// and the texts of a column.
const FUNCTIONS: &str = "
    const one = (selector) => document.querySelector(selector);
    const text = (selector) => one(selector).textContent;
    const rows = () => [...document.querySelectorAll('.row')].sort((a, b) => line(a) - line(b));
    const line = (row) => Number(row.getAttribute('aria-rowindex'));
    const column = (key) => {
        const heads = [...document.querySelectorAll('#head button')];
        const at = heads.findIndex((head) => head.dataset.key === key);
        return rows().map((row) => row.children[at].textContent);
    };
";

/// Key codes of WebDriver, section 17.4.2.
pub const ENTER: char = '\u{e007}';
pub const ESCAPE: char = '\u{e00c}';
pub const END: char = '\u{e010}';

/// A browser takes most of a small machine.
static ONE: Mutex<()> = Mutex::new(());

/// A browser with one window, closed on drop. There is one at a time.
pub struct Browser {
    _driver: Killed,
    port: u16,
    /// The path of the session.
    session: String,
    _one: MutexGuard<'static, ()>,
}

impl Browser {
    /// Starts a browser with a window of this size in pixels. `None` if it isn't installed.
    pub fn start(width: u32, height: u32) -> Option<Browser> {
        if !["chromium", "chromedriver"].into_iter().all(has) {
            return None;
        }
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is installed");
        let mut output = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
        let port = output.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        // A full pipe would stop the driver.
        std::thread::spawn(move || output.for_each(drop));
        let port = port.expect("the driver prints its port");
        let mut browser =
            Browser { _driver: Killed(driver), port, session: String::new(), _one: one };
        // A pipe ends the browser with its driver. Root has no sandbox, and containers little /dev/shm.
        let window = format!("--window-size={width},{height}");
        let flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        let flags: Vec<&str> =
            flags.into_iter().chain(["--remote-debugging-pipe", &window]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "script": PATIENCE, "pageLoad": PATIENCE },
        } } });
        let created = browser.request("POST", "/session", &wanted);
        let id = created["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("/session/{id}");
        Some(browser)
    }

    /// Opens a page, and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.ask("/url", &json!({ "url": url }));
    }

    /// Runs statements in the page; returns the value of their `return`.
    pub fn run(&self, script: &str) -> Value {
        let script = format!("{FUNCTIONS} {script}");
        self.ask("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// The value of an expression in the page.
    pub fn value(&self, expression: &str) -> Value {
        self.run(&format!("return {expression}"))
    }

    /// Waits until an expression of the page is true; returns its value.
    pub fn wait_for(&self, condition: &str) -> Value {
        let script = format!(
            "{FUNCTIONS}
            const done = arguments[0];
            const look = () => {{ try {{ return {condition}; }} catch {{ return false; }} }};
            const again = () => {{
                const found = look();
                if (found) done(found);
                else setTimeout(again, 20);
            }};
            again();"
        );
        let found = self.try_ask("/execute/async", &json!({ "script": script, "args": [] }));
        found.unwrap_or_else(|error| {
            let text = self.run("return document.body.innerText.slice(0, 1500)");
            panic!("not true in time: {condition}: {error}; the page: {text}")
        })
    }

    /// Evaluates a promise of the page.
    pub fn resolve(&self, promise: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; ({promise}).then(done, (error) => done(String(error)));"
        );
        self.ask("/execute/async", &json!({ "script": script, "args": [] }))
    }

    /// Presses and releases keys, one after the other.
    pub fn press(&self, keys: &str) {
        let presses = keys.chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
        });
        let actions =
            json!([{ "type": "key", "id": "keys", "actions": presses.collect::<Vec<_>>() }]);
        self.ask("/actions", &json!({ "actions": actions }));
    }

    /// Clicks into the middle of the first element of a CSS selector.
    pub fn click(&self, selector: &str) {
        let by = json!({ "using": "css selector", "value": selector });
        let element = self.ask("/element", &by);
        let id = element.as_object().and_then(|object| object.values().next()?.as_str());
        let id = id.unwrap_or_else(|| panic!("no element {selector}: {element}"));
        self.ask(&format!("/element/{id}/click"), &json!({}));
    }

    /// Errors and warnings that the page has logged so far.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.ask("/se/log", &json!({ "type": "browser" }));
        let lines = log.as_array().into_iter().flatten();
        let lines = lines.filter(|line| line["level"] == "SEVERE" || line["level"] == "WARNING");
        lines.map(|line| line["message"].to_string()).collect()
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        self.try_ask(path, body).unwrap_or_else(|error| panic!("{path} {body} failed: {error}"))
    }

    fn try_ask(&self, path: &str, body: &Value) -> Result<Value, Value> {
        self.exchange("POST", &format!("{}{path}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let result = self.exchange(method, path, body);
        result.unwrap_or_else(|error| panic!("{method} {path} failed: {error}"))
    }

    /// Sends a request; returns the value of the response, or the error that the driver reports.
    fn exchange(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let body = body.to_string();
        let mut driver = TcpStream::connect(("127.0.0.1", self.port)).expect("the driver listens");
        let length = body.len();
        write!(
            driver,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}",
            self.port
        )
        .expect("the driver reads");
        let mut response = BufReader::new(driver);
        let mut length = 0;
        let status = line(&mut response);
        loop {
            let field = line(&mut response);
            if field.is_empty() {
                break;
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut content = vec![0; length];
        response.read_exact(&mut content).expect("the whole response");
        let mut answer: Value = serde_json::from_slice(&content).expect("JSON");
        let value = answer["value"].take();
        if status.contains(" 200 ") { Ok(value) } else { Err(value["message"].clone()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A failed request must not hide the failure of the test.
        if !self.session.is_empty() && !std::thread::panicking() {
            self.request("DELETE", &self.session, &json!({}));
        }
    }
}

/// A line of a response's head.
fn line(response: &mut impl BufRead) -> String {
    let mut line = String::new();
    response.read_line(&mut line).expect("the driver answers");
    line.trim_end().to_owned()
}
