//! Recordings that the program writes: at its end, and when a flag is raised.
//!
//! Contract: 184c.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet_core::{Reactor, Remote, Result, hooks};

use crate::board::Board;
use crate::flags::{Flag, Severity};

/// How often the loops are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// When a recording that could not be written is tried again, if its flag is still up.
const RETRY: Duration = Duration::from_secs(5);

/// How much of the ring a recording of a flag has.
const LAST: Duration = Duration::from_secs(60);

/// The length of a time in a file's name.
const TIME: usize = "20261127T061500Z".len();

/// The settings of recordings that flags cause.
#[derive(Clone)]
pub(crate) struct FlagRecordings {
    /// `None`: none are made.
    pub(crate) folder: Option<PathBuf>,
    /// The most files.
    pub(crate) kept: usize,
    /// The shortest time from one to the next.
    pub(crate) pause: Duration,
}

impl Default for FlagRecordings {
    fn default() -> FlagRecordings {
        FlagRecordings { folder: None, kept: 10, pause: LAST }
    }
}

/// Writes the recording at the end of the program.
pub(crate) fn record_at_end(inspector: &Remote, file: &Path) {
    // The thread of the inspector has failed, which was logged.
    let Some(recording) = crate::thread::recording(inspector) else { return };
    let shown = file.display();
    match fs::write(file, &recording) {
        Ok(()) => tracing::info!(file = %shown, bytes = recording.len(), "wrote a recording"),
        Err(error) => tracing::error!("cannot write the recording {shown}: {error}"),
    }
}

/// Looks at the loops from now on, and records when a flag is raised, if that is wanted.
pub(crate) fn watch(reactor: &Reactor, board: Rc<Board>, settings: FlagRecordings, program: &str) {
    let Some(folder) = settings.folder.clone() else { return };
    let (reactor, name) = (reactor.clone(), file_name(program));
    let watching = reactor.clone().spawn_named("flags", async move {
        let mut raised = Raised::new(settings);
        loop {
            reactor.sleep(EVERY).await?;
            board.watch().await?;
            if let Some(rule) = raised.look(&board.flags(), reactor.now()) {
                let target = (&*folder, &*name, &*rule);
                let written = raised.record(&reactor, &board, target).await?;
                raised.recorded(written);
            }
        }
    });
    // The watch ends with the inspector's loop.
    let watching: couplet_core::Deferred<()> = watching;
    watching.detach();
}

/// The flags that are up, and the last recording.
struct Raised {
    settings: FlagRecordings,
    flags: BTreeSet<String>,
    recorded_at: Option<Instant>,
    /// Whether the last recording could not be written.
    has_failed: bool,
}

impl Raised {
    fn new(settings: FlagRecordings) -> Raised {
        Raised { settings, flags: BTreeSet::new(), recorded_at: None, has_failed: false }
    }

    /// Takes the flags of this moment. Returns the rule of one that is to be recorded.
    fn look(&mut self, flags: &[Flag], now: Instant) -> Option<String> {
        let is_worse = |flag: &&Flag| flag.severity() == Severity::Red || flag.rule() == "slow";
        let mut new = flags.iter().filter(|flag| !self.flags.contains(flag.id()));
        let rule = new.find(is_worse).map(|flag| flag.rule().to_owned());
        self.flags = flags.iter().map(|flag| flag.id().to_owned()).collect();
        let passed = self.recorded_at.map(|at| now.saturating_duration_since(at));
        let pause = self.settings.pause;
        let pause = if self.has_failed { pause.min(RETRY) } else { pause };
        if self.has_failed && passed.is_some_and(|passed| passed < pause) {
            // After the pause, the flags count as new again.
            self.flags.clear();
        }
        let rule = rule.filter(|_| passed.is_none_or(|passed| passed >= pause))?;
        self.recorded_at = Some(now);
        Some(rule)
    }

    /// Takes the outcome of a recording. The first of several errors is logged.
    fn recorded(&mut self, written: std::result::Result<String, String>) {
        match &written {
            Ok(file) => tracing::warn!(file, "a flag was raised: wrote a recording"),
            Err(error) if !self.has_failed => tracing::error!("cannot keep the recording {error}"),
            Err(_) => {}
        }
        self.has_failed = written.is_err();
        if self.has_failed {
            self.flags.clear();
        }
    }

    /// Writes a recording in a thread of the pool, while the loop serves the page. Returns the file, or
    /// the file with its error.
    async fn record(
        &self,
        reactor: &Reactor,
        board: &Board,
        (folder, name, rule): (&Path, &str, &str),
    ) -> Result<std::result::Result<String, String>> {
        let recording = board.recording(Some(LAST));
        let time = utc(hooks::unix_time(reactor));
        let file = folder.join(format!("{name}-{time}-{rule}.rec"));
        let (folder, name, kept) = (folder.to_owned(), name.to_owned(), self.settings.kept);
        let writing = reactor.defer_to_thread(move || {
            let written =
                write(&file, &recording).and_then(|()| remove_oldest(&folder, &name, kept));
            let shown = file.display();
            Ok(written.map(|()| shown.to_string()).map_err(|error| format!("{shown}: {error}")))
        });
        writing.await
    }
}

/// Writes a whole file, or none.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = file.with_extension("part");
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        // The file may not exist.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// Removes the oldest recordings of a program, until `kept` are left. Other files stay.
fn remove_oldest(folder: &Path, program: &str, kept: usize) -> io::Result<()> {
    let mut times = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let time = name.and_then(|name| time_of(name, program)).map(str::to_owned);
        times.extend(time.map(|time| (time, path)));
    }
    times.sort();
    let surplus = times.len().saturating_sub(kept);
    times.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// The time in the name of a recording of this program.
fn time_of<'a>(file: &'a str, program: &str) -> Option<&'a str> {
    let rest = file.strip_prefix(program)?.strip_prefix('-')?;
    let (time, flag) = rest.split_at_checked(TIME)?;
    let is_time = time.bytes().all(|byte| byte.is_ascii_digit() || b"TZ".contains(&byte));
    (is_time && flag.starts_with('-') && flag.ends_with(".rec")).then_some(time)
}

/// A program's name as part of a file's name.
fn file_name(program: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._".contains(c) { c } else { '_' };
    program.chars().map(plain).collect()
}

/// A time since 1970 as in `20261127T061500Z`.
fn utc(unix: Duration) -> String {
    let (days, seconds) = (unix.as_secs() / 86_400, unix.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Converts days since 1970-01-01 to a date. Years are counted from March, so that a leap day is the
/// last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    const FOUR_CENTURIES: u64 = 146_097;
    let days = days + 719_468;
    let (era, day) = (days / FOUR_CENTURIES, days % FOUR_CENTURIES);
    let year = (day - day / 1460 + day / 36_524 - day / (FOUR_CENTURIES - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, of_month)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do")]
mod tests {
    use super::*;
    use couplet_testkit::logged::logged;
    use couplet_testkit::needed::Folder;

    #[test]
    fn times_in_names_are_utc() {
        for (unix, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_795_760_100, "20261127T061500Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(unix)), text);
        }
    }

    #[test]
    fn c184c_new_red_flags_and_slow_calls_are_recorded_after_a_pause() {
        let settings = FlagRecordings::default();
        assert_eq!((settings.kept, settings.pause), (10, Duration::from_secs(60)));
        let mut raised = Raised::new(settings);
        let start = Instant::now();
        let mut look = |second: u64, flags: &[(&str, Severity)]| {
            let flags: Vec<_> = flags.iter().map(|(id, is)| Flag::of_test(id, *is)).collect();
            raised.look(&flags, start + Duration::from_secs(second))
        };
        let (busy, late) = (("0.busy", Severity::Red), ("0.late", Severity::Yellow));
        let slow = ("1.slow", Severity::Yellow);
        assert_eq!(look(0, &[late]), None);
        assert_eq!(look(1, &[late, busy]).as_deref(), Some("busy"));
        assert_eq!(look(100, &[busy]), None, "it is still up");
        assert_eq!(look(101, &[]), None);
        assert_eq!(look(102, &[slow]).as_deref(), Some("slow"));
        assert_eq!(look(161, &[busy, slow]), None, "too soon");
        assert_eq!(look(200, &[slow]), None);
        assert_eq!(look(201, &[busy, slow]).as_deref(), Some("busy"));
    }

    #[test]
    fn a_recording_that_failed_is_tried_again_while_its_flag_is_up() {
        let mut raised = Raised::new(FlagRecordings::default());
        let (start, flags) = (Instant::now(), [Flag::of_test("0.busy", Severity::Red)]);
        let at = |second: u64| start + Duration::from_secs(second);
        for second in [0, 5, 10] {
            assert_eq!(raised.look(&flags, at(second)).as_deref(), Some("busy"), "{second}");
            raised.recorded(Err("busy.rec: disk full".to_owned()));
            assert_eq!(raised.look(&flags, at(second + 1)), None);
        }
        assert_eq!(raised.look(&flags, at(15)).as_deref(), Some("busy"));
        raised.recorded(Ok("busy.rec".to_owned()));
        assert_eq!(raised.look(&flags, at(100)), None, "it is recorded");
    }

    #[test]
    fn only_recordings_of_the_program_are_removed() {
        let folder = Folder::new();
        let names = [
            "poems-20261127T061500Z-busy.rec",
            "poems-20261127T061501Z-held.rec",
            "poems-20251231T235959Z-jobs.rec",
            "poems-latest.rec",
            "poems-20261127T061500Z-busy.txt",
            "other-20200101T000000Z-busy.rec",
        ];
        for name in names {
            fs::write(folder.join(name), b"").expect("a file");
        }
        remove_oldest(&folder, "poems", 2).expect("a folder");
        let is_kept = |name: &str| folder.join(name).exists();
        assert_eq!(names.map(is_kept), [true, true, false, true, true, true]);
        remove_oldest(&folder, "poems", 1).expect("a folder");
        assert_eq!(names.map(is_kept), [false, true, false, true, true, true]);
        // Several at once, as after a change of their number.
        for name in ["poems-20261127T061502Z-busy.rec", "poems-20261127T061503Z-busy.rec"] {
            fs::write(folder.join(name), b"").expect("a file");
        }
        remove_oldest(&folder, "poems", 1).expect("a folder");
        assert_eq!(names.map(is_kept), [false, false, false, true, true, true]);
        assert_eq!(folder.names().len(), 4, "the newest");
    }

    #[test]
    fn c184c_the_first_of_several_errors_is_logged_each_time() {
        let mut raised = Raised::new(FlagRecordings::default());
        let ((), lines) = logged(|| {
            for is_written in [false, false, true, false, false, true, true] {
                let file = "busy.rec".to_owned();
                raised.recorded(if is_written { Ok(file) } else { Err(file + ": disk full") });
            }
        });
        let error = |line: &String| line.contains("cannot keep the recording busy.rec: disk full");
        let errors: Vec<bool> = lines.iter().map(error).collect();
        assert_eq!(errors, [true, false, true, false, false], "{lines:?}");
    }

    #[test]
    fn a_file_that_cant_be_written_leaves_nothing() {
        let folder = Folder::new();
        // A folder can't be replaced by a file.
        let file = folder.join("poems-20261127T061500Z-busy.rec");
        fs::create_dir(&file).expect("a folder");
        write(&file, b"recording").expect_err("it is a folder");
        assert_eq!(fs::read_dir(&*folder).expect("a folder").count(), 1);
        write(&folder.join("missing/a.rec"), b"recording").expect_err("no such folder");
    }

    #[test]
    fn names_of_programs_are_safe_in_files() {
        assert_eq!(file_name("../poems server-2"), ".._poems_server_2");
    }
}
