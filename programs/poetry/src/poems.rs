//! Poems from files, and the built-in ones, which are complete and in the public domain.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::exit::Exit;
use crate::output;

/// A poem and its title.
#[derive(Clone, Debug)]
pub struct Poem {
    /// The file name without its extension; clients request the poem by this name.
    pub name: String,
    /// The title as people read it.
    pub title: String,
    /// The whole poem.
    pub text: Bytes,
}

macro_rules! built_in {
    ($($file:literal),*) => {
        [$(($file, include_str!(concat!("../poems/", $file, ".txt")))),*]
    };
}

/// The built-in poems; the first line of each is its title.
pub fn built_in() -> Vec<Poem> {
    built_in!["ozymandias", "the-tyger", "der-panther", "hope", "wandrers-nachtlied"]
        .into_iter()
        .map(|(name, text)| Poem {
            name: name.to_owned(),
            title: text.lines().next().unwrap_or_default().to_owned(),
            text: Bytes::from_static(text.as_bytes()),
        })
        .collect()
}

/// Loads the poems in these files, or the built-in ones if the list is empty.
pub(crate) fn load(files: &[PathBuf]) -> Result<Vec<Poem>, Exit> {
    if files.is_empty() {
        return Ok(built_in());
    }
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> Result<Poem, Exit> {
    let text = std::fs::read(file).map_err(|error| {
        let (file, why) = (file.display(), output::plain(&error));
        Exit::failed(format!("cannot read the poem {file}: {why}"))
    })?;
    if text.is_empty() {
        tracing::warn!(file = %file.display(), "the poem is empty");
    }
    let title = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Poem { name: title.clone(), title, text: text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_poems_have_a_title_an_author_and_lines() {
        let poems = built_in();
        assert!(poems.len() >= 3);
        for poem in &poems {
            let text = std::str::from_utf8(&poem.text).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], poem.title);
            assert!(!lines[1].is_empty() && lines[2].is_empty() && lines.len() > 8, "{}", lines[0]);
            assert!(text.ends_with('\n') && !text.contains('\r'));
        }
        assert!(poems.iter().any(|poem| !poem.text.is_ascii()));
    }
}
