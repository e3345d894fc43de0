//! SQLite, in a file.

use crate::needed::Folder;

struct File(Folder);

impl File {
    #[expect(clippy::unnecessary_wraps, reason = "others may be missing")]
    fn start() -> Option<File> {
        Some(File(Folder::new()))
    }

    fn url(&self) -> String {
        format!("sqlite://{}?mode=rwc", self.0.path("poems.db"))
    }
}

facts!(File::start);
