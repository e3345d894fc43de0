//! The modules of the library with their imports: where a path leads, through re-exports.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Code;

/// A path, by segments.
type Path = Vec<String>;

/// The imports of each module: local names and full paths.
pub(super) struct Modules(BTreeMap<Path, BTreeMap<String, Path>>);

impl Modules {
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a Code>) -> Modules {
        let mut modules: BTreeMap<Path, BTreeMap<String, Path>> = BTreeMap::new();
        for file in files {
            let own = std::iter::once((&file.module, &file.imported));
            for (module, imports) in own.chain(&file.inner) {
                modules.entry(module.clone()).or_default().extend(imports.clone());
            }
        }
        Modules(modules)
    }

    pub(super) fn has(&self, module: &[String]) -> bool {
        self.0.contains_key(module)
    }

    /// An absolute path, followed by the paths that it re-exports, one after another.
    pub(super) fn steps(&self, path: &[String]) -> Vec<Vec<String>> {
        let mut steps = vec![path.to_vec()];
        while steps.len() < 8 {
            let Some(next) = self.step(&steps[steps.len() - 1]) else { break };
            steps.push(next);
        }
        steps
    }

    /// Follows one re-export; `None` at the definition.
    fn step(&self, path: &[String]) -> Option<Vec<String>> {
        let inside = path.strip_prefix(&["crate".to_owned()])?;
        let is_module = |at: &usize| self.0.contains_key(&inside[..*at]);
        let at = (0..inside.len()).rev().find(is_module)?;
        let whole = self.0.get(&inside[..at])?.get(&inside[at])?;
        let mut whole = whole.clone();
        // `pub use defer::Deferred` at the root is relative to it.
        let child = inside[..at].iter().chain(&whole[..1]).cloned().collect::<Vec<_>>();
        if whole[0] != "crate" && self.0.contains_key(&child) {
            whole =
                ["crate".to_owned()].into_iter().chain(child).chain(whole.split_off(1)).collect();
        }
        Some(whole.into_iter().chain(inside[at + 1..].iter().cloned()).collect())
    }

    /// The paths outside of the library that a path of a file may stand for, through imports, aliases
    /// and re-exports. A name that is imported twice, in two scopes, stands for both.
    pub(super) fn outside(&self, file: &Code, path: &[String]) -> BTreeSet<Path> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut left = vec![(file.module.clone(), path.to_vec())];
        while let Some((module, path)) = left.pop() {
            if !seen.insert((module.clone(), path.clone())) {
                continue;
            }
            let (first, rest) = (&path[0], &path[1..]);
            let here = module == file.module;
            let aliases = file.aliases.iter().filter(|(name, _)| here && name == first);
            for (_, whole) in aliases.filter(|(_, whole)| whole[0] != *first) {
                left.push((module.clone(), [whole, rest].concat()));
            }
            match first.as_str() {
                "" => {
                    found.insert(standard(rest));
                }
                "crate" => left.extend(self.exported(rest)),
                "super" | "self" | "Self" => {}
                "print" | "println" | "eprint" | "eprintln" | "include" if rest.is_empty() => {
                    found.insert(vec!["std".to_owned(), first.clone()]);
                }
                // Of a module inside the file, or below it.
                _ if here && self.has(&[&module[..], &path[..1]].concat()) => {
                    left.extend(self.exported(&[&module[..], &path].concat()));
                }
                _ if here && file.inner.keys().any(|inner| inner.last() == Some(first)) => {
                    let inner = file.inner.keys().filter(|inner| inner.last() == Some(first));
                    left.extend(inner.filter_map(|m| self.exported(&[&m[..], rest].concat())));
                }
                _ if (!here && !rest.is_empty()) || is_outside(file, self, &path) => {
                    found.insert(standard(&path));
                }
                _ => {}
            }
        }
        found
    }

    /// The import behind a path below the root, with its module, if it leads out of the library.
    fn exported(&self, path: &[String]) -> Option<(Path, Path)> {
        let at = (0..path.len()).rev().find(|at| self.has(&path[..*at]))?;
        let (module, imports) = self.0.get_key_value(&path[..at])?;
        let whole = imports.get(&path[at])?;
        // `use std::io; pub use io::Error;`
        let whole = match imports.get(&whole[0]).filter(|_| whole.len() > 1) {
            Some(before) => [before, &whole[1..]].concat(),
            None => whole.clone(),
        };
        let is_child = self.has(&[&module[..], &whole[..1]].concat());
        (!is_child).then(|| (module.clone(), [&whole[..], &path[at + 1..]].concat()))
    }
}

/// True for a path that begins with the name of another crate, as opposed to a module, a type or a
/// local name.
fn is_outside(file: &Code, modules: &Modules, path: &[String]) -> bool {
    const OWN: [&str; 3] = ["alloc", "core", "std"];
    let first = path[0].as_str();
    if OWN.contains(&first) {
        return true;
    }
    let is_local = file.aliases.iter().any(|(name, whole)| name == first && whole[0] != first)
        || file.inner.keys().any(|module| module.last().is_some_and(|name| name == first))
        || modules.has(&[&file.module[..], &path[..1]].concat())
        || PRIMITIVES.contains(&first)
        || first.starts_with(|c: char| c.is_uppercase() || c == '$');
    path.len() > 1 && !is_local
}

/// Primitive types, whose functions have paths such as `u8::from_str_radix`.
const PRIMITIVES: [&str; 17] = [
    "bool", "char", "f32", "f64", "i128", "i16", "i32", "i64", "i8", "isize", "str", "u128", "u16",
    "u32", "u64", "u8", "usize",
];

/// A path into another crate; `core` and `alloc` are parts of `std`.
fn standard(path: &[String]) -> Path {
    let own = matches!(path[0].as_str(), "alloc" | "core");
    let first = if own { "std".to_owned() } else { path[0].clone() };
    std::iter::once(first).chain(path[1..].iter().cloned()).collect()
}
