//! Children by `posix_spawn`, for a program whose descriptors belong to code in another language. A
//! child has the descriptors that are named; it closes all others itself, so a start costs the same
//! however many this process has open.
#![cfg(unix)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

/// A program to start, with all signals at their defaults.
#[derive(Debug)]
pub struct Program<'a> {
    /// Looked up in our `PATH`, unless it has a slash.
    pub file: &'a CStr,
    /// The arguments, the first of them its own name.
    pub arguments: &'a [CString],
    /// The environment variables: `NAME=value`.
    pub environment: &'a [CString],
    /// The child's descriptors, and the numbers that they get there.
    pub descriptors: &'a [(BorrowedFd<'a>, RawFd)],
}

/// The most numbers below the highest one that are closed one by one.
const MAX_GAPS: usize = 16;

/// `posix_spawn_file_actions_addclosefrom_np`, which only newer C libraries have.
type AddCloseFrom = unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, c_int) -> c_int;

fn add_close_from() -> Option<AddCloseFrom> {
    static FOUND: OnceLock<Option<AddCloseFrom>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let name = c"posix_spawn_file_actions_addclosefrom_np";
        // SAFETY: a name that ends with a zero byte; dlsym may be called from any thread.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        // SAFETY: the function of this name has this type in each library that has it.
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, _>(found) })
    })
}

/// The result of a function that returns the number of its error.
fn check(number: c_int) -> io::Result<()> {
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(number)) }
}

/// The steps that the child takes before it executes the program.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the pointer is to memory for the actions, which the call initialises.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: they are initialised.
        Ok(Actions(unsafe { actions.assume_init() }))
    }

    fn duplicate(&mut self, from: RawFd, to: RawFd) -> io::Result<()> {
        // SAFETY: the actions are initialised, and the call only records the numbers.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }

    fn close(&mut self, number: RawFd) -> io::Result<()> {
        // SAFETY: the actions are initialised, and the call only records the number.
        check(unsafe { libc::posix_spawn_file_actions_addclose(&raw mut self.0, number) })
    }

    fn close_from(&mut self, add: AddCloseFrom, least: RawFd) -> io::Result<()> {
        // SAFETY: the actions are initialised, and the call only records the number.
        check(unsafe { add(&raw mut self.0, least) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: they are initialised, and not used afterwards.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// All signals have their defaults.
    fn with_default_signals() -> io::Result<Attributes> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the pointer is to memory for the attributes, which the call initialises.
        check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: they are initialised.
        let mut attributes = Attributes(unsafe { attributes.assume_init() });
        let mut all = MaybeUninit::uninit();
        let flags = libc::POSIX_SPAWN_SETSIGDEF as libc::c_short;
        // SAFETY: sigfillset initialises the set, and the other calls copy their arguments into the
        // attributes, which are initialised.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            check(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, all.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialised, and not used afterwards.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

fn pointers(texts: &[CString]) -> Vec<*mut c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// Starts a program and returns its process ID; the caller must wait for it. `None` if the C library
/// can't close the other descriptors, or if a descriptor is overwritten before it is duplicated.
///
/// # Errors
///
/// The system's error, including errors in the child before it executes the program.
pub fn spawn(program: &Program<'_>) -> io::Result<Option<i32>> {
    let named = program.descriptors;
    let is_target = |number: RawFd| named.iter().any(|(_, to)| *to == number);
    let above = named.iter().map(|(_, to)| to.saturating_add(1)).max().unwrap_or(0);
    let is_direct = named.iter().all(|(from, to)| *to >= 0 && !is_target(from.as_raw_fd()));
    let has_few_gaps = above as usize <= named.len() + MAX_GAPS;
    let Some(add_close_from) = add_close_from().filter(|_| is_direct && has_few_gaps) else {
        return Ok(None);
    };
    let mut actions = Actions::new()?;
    for (from, to) in named {
        actions.duplicate(from.as_raw_fd(), *to)?;
    }
    for gap in (0..above).filter(|number| !is_target(*number)) {
        actions.close(gap)?;
    }
    actions.close_from(add_close_from, above)?;
    let attributes = Attributes::with_default_signals()?;
    let (arguments, environment) = (pointers(program.arguments), pointers(program.environment));
    let mut pid = 0;
    // SAFETY: all pointers are to values that outlive the call: the texts and the arrays of pointers
    // to them end with zero, and the actions and attributes are initialised.
    check(unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            program.file.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Ok(Some(pid))
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};
    use std::os::fd::AsFd;

    use super::*;

    fn text(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).expect("no zero byte")).collect()
    }

    fn started(script: &str, descriptors: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Option<i32>> {
        let arguments = text(&["sh", "-c", script]);
        let environment = text(&["WHO=rose"]);
        let (arguments, environment) = (&arguments[..], &environment[..]);
        spawn(&Program { file: c"/bin/sh", arguments, environment, descriptors })
    }

    fn all_of(mut reader: PipeReader, pid: Option<i32>) -> String {
        let mut said = String::new();
        reader.read_to_string(&mut said).expect("text");
        // SAFETY: the pointer is null, and the number is a child's of this test.
        unsafe { libc::waitpid(pid.expect("started"), ptr::null_mut(), 0) };
        said
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_child_has_only_the_named_descriptors() {
        let (reader, writer) = io::pipe().expect("a pipe");
        // SAFETY: the call takes two numbers, and touches no memory of ours.
        let kept = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_DUPFD, 20) };
        // A descriptor is not duplicated to its own number.
        let to = if writer.as_raw_fd() == 5 { 6 } else { 5 };
        let script = format!(
            "for fd in 2 {kept}; do test -e /proc/$$/fd/$fd || echo no $fd >&{to}; done; \
             echo $WHO >&{to}"
        );
        let pid = started(&script, &[(writer.as_fd(), to)]).expect("it starts");
        drop(writer);
        // SAFETY: the call above opened it, and nothing else has it.
        unsafe { libc::close(kept) };
        assert_eq!(all_of(reader, pid), format!("no 2\nno {kept}\nrose\n"));
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_child_has_each_of_several_descriptors_and_none_between_them() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (input, mut lines) = io::pipe().expect("a pipe");
        io::Write::write_all(&mut lines, b"rose\n").expect("room");
        let above = [writer.as_raw_fd(), input.as_raw_fd()].map(|number| number + 1);
        let above = above.into_iter().max().unwrap_or(0);
        // Below the most gaps that are closed one by one, and no number that is duplicated.
        let numbers: Vec<RawFd> = (3..above + 9)
            .filter(|number| ![writer.as_raw_fd(), input.as_raw_fd()].contains(number))
            .take(5)
            .collect();
        let [from, gap, to, other, last] = numbers[..] else { panic!("{numbers:?}") };
        let script = format!(
            "read line <&{from}; for fd in {gap} {last}; do test -e /proc/$$/fd/$fd || \
             echo no $fd >&{to}; done; echo $line >&{other}"
        );
        let named = [(input.as_fd(), from), (writer.as_fd(), to), (writer.as_fd(), other)];
        let pid = started(&script, &named).expect("it starts");
        drop((writer, input));
        assert_eq!(all_of(reader, pid), format!("no {gap}\nno {last}\nrose\n"));
    }

    #[test]
    fn descriptors_that_are_overwritten_or_have_large_numbers_are_refused() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let (from, to) = (writer.as_fd(), reader.as_raw_fd());
        let swapped = [(from, to), (reader.as_fd(), 1)];
        for descriptors in [&swapped[..], &[(from, 1000)], &[(from, -1)], &[(from, RawFd::MAX)]] {
            assert!(started("exit", descriptors).expect("no error").is_none(), "{descriptors:?}");
        }
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_program_that_does_not_exist_is_an_error() {
        let arguments = text(&["no"]);
        let program = Program {
            file: c"/no/such",
            arguments: &arguments,
            environment: &[],
            descriptors: &[],
        };
        let error = spawn(&program).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
