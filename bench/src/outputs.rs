//! The files to which the results are written.

use std::fs;
use std::path::{Path, PathBuf};

use crate::markdown::Document;
use crate::options::Options;
use crate::results::Results;
use crate::{Result, html, in_context};

/// The files of the command line.
pub(crate) struct Outputs {
    json: Option<PathBuf>,
    html: Option<PathBuf>,
    document: Option<Document>,
}

impl Outputs {
    /// Checks that each file can be written.
    pub(crate) fn open(options: &Options) -> Result<Outputs> {
        let (json, html) = (options.json.clone(), options.html.clone());
        for file in [&json, &html].into_iter().flatten() {
            let opened = fs::File::options().append(true).create(true).open(file);
            opened.map_err(in_context(format!("cannot write {}", file.display())))?;
        }
        let document = options.write.as_deref().map(Document::open).transpose()?;
        Ok(Outputs { json, html, document })
    }

    /// Replaces the contents of each file.
    pub(crate) fn write(&self, results: &Results) -> Result<()> {
        if let Some(file) = &self.json {
            write(file, &(serde_json::to_string_pretty(results)? + "\n"))?;
        }
        if let Some(file) = &self.html {
            write(file, &html::page(results))?;
        }
        self.document.as_ref().map_or(Ok(()), |it| write(&it.path, &it.with(results)))
    }

    /// Names the files on stderr.
    pub(crate) fn report(&self) {
        let document = self.document.as_ref().map(|it| &it.path);
        for file in [self.json.as_ref(), self.html.as_ref(), document].into_iter().flatten() {
            eprintln!("wrote {}", file.display());
        }
    }
}

/// Writes a file; an error names it.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).map_err(in_context(format!("cannot write {}", file.display())))
}
