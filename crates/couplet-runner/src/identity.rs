//! The user, the group and the file mode mask of the process.

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group, Uid, User, fchown, fchownat, initgroups, setgid, setgroups, setuid};

use crate::exit::Exit;
use crate::options::Options;

/// A user and a group that exist.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    user: Option<(Uid, Option<String>, Gid)>,
    group: Option<Gid>,
}

impl Identity {
    /// Looks up the user and the group; `None` if the process keeps its own.
    pub(crate) fn find(options: &Options) -> Result<Option<Identity>, Exit> {
        let user = options.user.as_deref().map(find_user).transpose()?;
        let group = options.group.as_deref().map(find_group).transpose()?;
        Ok((user.is_some() || group.is_some()).then_some(Identity { user, group }))
    }

    /// Makes the user the owner of a file. A symbolic link, which others may have put there, is not
    /// followed.
    pub(crate) fn give(&self, file: &Path) -> Result<(), Exit> {
        let Some((user, ..)) = &self.user else { return Ok(()) };
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let given = fchownat(AT_FDCWD, file, Some(*user), None, flags);
        given.map_err(|error| not_given(file, error))
    }

    /// Makes the user the owner of an open file.
    pub(crate) fn give_open(&self, file: impl AsFd, path: &Path) -> Result<(), Exit> {
        let Some((user, ..)) = &self.user else { return Ok(()) };
        fchown(file, Some(*user), None).map_err(|error| not_given(path, error))
    }

    /// The group to become: the user's own unless set.
    fn group(&self) -> Option<Gid> {
        self.group.or(self.user.as_ref().map(|(_, _, group)| *group))
    }

    /// The name of the user, who may have other groups.
    fn name(&self) -> Option<&str> {
        self.user.as_ref().and_then(|(_, name, _)| name.as_deref())
    }

    /// Whether a process of this user and group, which may not change them, has this identity: an
    /// older process of the program had become it.
    fn is_that_of(&self, user: Uid, group: Gid) -> bool {
        let is_user = self.user.as_ref().is_none_or(|(own, ..)| *own == user);
        let is_group = self.group().is_none_or(|own| own == group);
        !user.is_root() && is_user && is_group
    }

    /// Becomes the user and the group, in all threads. A user's other groups are set too.
    pub(crate) fn assume(&self) -> Result<(), Exit> {
        if self.is_that_of(Uid::effective(), Gid::effective()) {
            return Ok(());
        }
        let group = self.group();
        let become_group = |group: Gid| match self.name() {
            Some(name) => {
                let name = std::ffi::CString::new(name).expect("it was found");
                initgroups(&name, group)
            }
            None => setgroups(&[group]),
        };
        let done = group
            .map_or(Ok(()), |group| become_group(group).and_then(|()| setgid(group)))
            .and_then(|()| self.user.as_ref().map_or(Ok(()), |(user, _, _)| setuid(*user)));
        done.map_err(|error| {
            Exit::failed(format!(
                "cannot change the user or group: {}",
                error.desc().to_lowercase()
            ))
        })
    }
}

fn not_given(file: &Path, error: Errno) -> Exit {
    let (file, error) = (file.display(), error.desc().to_lowercase());
    Exit::failed(format!("cannot change the owner of {file}: {error}"))
}

/// The user of this name or number. A number without a user gets no other groups.
fn find_user(text: &str) -> Result<(Uid, Option<String>, Gid), Exit> {
    let by_name =
        User::from_name(text).map_err(|error| unknown("user", text, &error.to_string()))?;
    let number = text.parse().ok().map(Uid::from_raw);
    let by_number = || number.and_then(|uid| User::from_uid(uid).ok().flatten());
    match (by_name.or_else(by_number), number) {
        (Some(user), _) => Ok((user.uid, Some(user.name), user.gid)),
        (None, Some(uid)) => Ok((uid, None, Gid::from_raw(uid.as_raw()))),
        (None, None) => Err(unknown("user", text, "there is no user of this name")),
    }
}

fn find_group(text: &str) -> Result<Gid, Exit> {
    let by_name =
        Group::from_name(text).map_err(|error| unknown("group", text, &error.to_string()))?;
    let number = text.parse().ok().map(Gid::from_raw);
    by_name
        .map(|group| group.gid)
        .or(number)
        .ok_or_else(|| unknown("group", text, "there is no group of this name"))
}

fn unknown(kind: &str, name: &str, problem: &str) -> Exit {
    Exit::bad_usage(format!("cannot become {kind} {name}: {problem}"))
}

/// Sets the mask of new files' modes.
pub(crate) fn set_umask(mode: u32) {
    umask(Mode::from_bits_truncate(mode));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(user: Option<&str>, group: Option<&str>) -> Options {
        Options {
            user: user.map(str::to_owned),
            group: group.map(str::to_owned),
            ..Options::default()
        }
    }

    #[test]
    fn an_identity_is_kept_by_its_user_and_group_unless_it_is_roots() {
        let find = |user, group| Identity::find(&options(user, group)).unwrap().expect("one");
        let both = find(Some("54321"), Some("54322"));
        for (identity, user, group, wanted) in [
            (&both, 54321, 54322, true),
            (&both, 54321, 54321, false),
            (&both, 54322, 54322, false),
            (&both, 0, 54322, false),
            (&find(None, Some("54322")), 54321, 54322, true),
            (&find(None, Some("54322")), 54321, 0, false),
            // The further groups of the process may belong to another user.
            (&find(Some("0"), Some("0")), 0, 0, false),
        ] {
            let is_kept = identity.is_that_of(Uid::from_raw(user), Gid::from_raw(group));
            assert_eq!(is_kept, wanted, "{identity:?} as {user}:{group}");
        }
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let find = |user, group| Identity::find(&options(user, group));
        let root = Identity {
            user: Some((Uid::from_raw(0), Some("root".to_owned()), Gid::from_raw(0))),
            group: None,
        };
        assert_eq!(root.name(), Some("root"));
        assert_eq!(find(Some("root"), None).unwrap(), Some(root));
        assert_eq!(find(Some("0"), None).unwrap(), find(Some("root"), None).unwrap());
        let unnamed = find(Some("54321"), Some("54322")).unwrap().expect("numbers");
        assert_eq!(unnamed.name(), None);
        assert_eq!(unnamed.user.expect("one").0, Uid::from_raw(54321));
        assert_eq!(unnamed.group, Some(Gid::from_raw(54322)));
        assert_eq!(find(None, None).unwrap(), None);
        for (user, group, words) in [
            (Some("nobody-at-all"), None, "cannot become user nobody-at-all: there is no user"),
            (None, Some("no-group"), "cannot become group no-group: there is no group"),
        ] {
            let error = format!("{:?}", find(user, group).expect_err(words));
            assert!(error.contains(words) && error.contains("code: 2"), "{error}");
        }
    }
}
