//! A person at a line client of a chat.

use super::{Client, Server};

/// Number of lines in the greeting.
pub const GREETING: usize = 3;

/// A member that has read the greeting.
pub struct Member(pub Client);

impl Member {
    pub fn join(server: &Server) -> Member {
        Member::greeted(server.connect())
    }

    /// A client that reads the greeting.
    pub fn greeted(client: Client) -> Member {
        let mut member = Member(client);
        (0..GREETING).for_each(|_| drop(member.line()));
        member
    }

    pub fn say(&mut self, line: &str) {
        self.0.send(format!("{line}\n").as_bytes());
    }

    pub fn line(&mut self) -> String {
        self.0.read_line()
    }

    /// Reads until this line.
    pub fn hears(&mut self, line: &str) {
        while self.line() != line {}
    }
}

/// The member after it has taken this name.
pub fn renamed(mut member: Member, name: &str) -> Member {
    member.say(&format!("/nick {name}"));
    lines_until(&mut member, &format!(" is now {name}"));
    member
}

/// The next lines up to one with these words.
pub fn lines_until(member: &mut Member, words: &str) -> Vec<String> {
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &String| !line.contains(words)) {
        lines.push(member.line());
    }
    lines
}

/// The next lines with a number, up to one with these words.
pub fn kept_until(member: &mut Member, words: &str) -> Vec<String> {
    let lines = lines_until(member, words);
    lines.into_iter().filter(|line| line.starts_with('[')).collect()
}
