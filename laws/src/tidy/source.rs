//! The sources under test, parsed: every path and every method call outside of tests, with its line
//! and the enclosing function.
//!
//! The laws check syntax rather than text: comments and strings break no law, and an import, an
//! alias or a line break hides nothing. Macro arguments that are not expressions are scanned as
//! tokens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::mpsc::{self, Sender};
use std::{fs, panic, thread};

use proc_macro2::{Delimiter, Group, Spacing, Span, TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One Rust file of the workspace.
pub(super) struct Source {
    /// Relative to the workspace.
    pub(super) path: String,
    pub(super) text: String,
}

/// The workspace's folder.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("laws").to_owned()
}

/// The text of a file of the workspace.
pub(super) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The Rust files below a folder of the workspace.
pub(super) fn sources(below: &str) -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    walk(&root.join(below), &mut paths);
    paths
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("a text file"),
            path: path
                .strip_prefix(&root)
                .expect("a path below the root")
                .to_string_lossy()
                .replace('\\', "/"),
        })
        .collect()
}

/// The Rust files of the workspace and of the fuzzer.
pub(super) fn everything() -> Vec<Source> {
    [
        "crates",
        "programs",
        "testkit",
        "bench",
        "examples",
        "laws/src",
        "fuzz/src",
        "fuzz/fuzz_targets",
    ]
    .into_iter()
    .flat_map(sources)
    .collect()
}

/// Fails with the rule and each line that breaks it.
pub(super) fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

/// The crates of the library, and the module at which the facade, `couplet`, exports each.
const CRATES: [(&str, &[&str]); 9] = [
    ("couplet", &[]),
    ("couplet-bus", &["bus"]),
    ("couplet-core", &[]),
    ("couplet-defer", &[]),
    ("couplet-http", &["http"]),
    ("couplet-http2", &["http2"]),
    ("couplet-inspect", &["inspect"]),
    ("couplet-rooms", &["rooms"]),
    ("couplet-sim", &["sim"]),
];

/// Their names.
pub(super) fn crates_of_the_library() -> impl Iterator<Item = &'static str> {
    CRATES.iter().map(|(name, _)| *name)
}

/// The programs, and the crates that make programs of the library.
pub(super) const PROGRAMS: [&str; 5] =
    ["chat", "couplet-cli", "couplet-command", "couplet-runner", "poetry"];

/// The folders of the packages in `crates` and in `programs`, and of the benchmark, by their names.
pub(super) static FOLDERS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let below = |parent: &'static str| {
        let entries = root().join(parent).read_dir().expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.map(move |name| format!("{parent}/{}", name.to_string_lossy()))
    };
    let folders = ["crates", "programs"].into_iter().flat_map(below).chain(["bench".to_owned()]);
    let named = folders.map(|folder| {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = "));
        (name.expect("a name").trim_matches('"').to_owned(), folder)
    });
    named.collect()
});

/// The folder of a package.
pub(super) fn folder_of(package: &str) -> &'static str {
    FOLDERS.get(package).unwrap_or_else(|| panic!("there is no package {package}"))
}

/// The module at which the facade exports a crate of the library, given its name in code.
pub(super) fn module_of(name: &str) -> Option<&'static [&'static str]> {
    CRATES.iter().find(|(root, _)| root.replace('-', "_") == name).map(|(_, at)| *at)
}

/// A crate's `src`, parsed; files of unit tests are left out. `couplet` is the whole library, as its
/// facade shows it: paths into its crates begin with `crate`. Parsed once in each thread; see
/// [`with_parsed_code`].
pub(super) fn library(name: &str) -> &'static [Code] {
    thread_local! {
        static PARSED: RefCell<BTreeMap<String, &'static [Code]>> = RefCell::default();
    }
    let known = PARSED.with_borrow(|parsed| parsed.get(name).copied());
    known.unwrap_or_else(|| {
        let code: &[Code] = library_of(name).leak();
        PARSED.with_borrow_mut(|parsed| parsed.insert(name.to_owned(), code));
        code
    })
}

/// Runs a check in the thread that all such checks share, so that they share its parsed
/// [`library`]: syntax trees can't leave their thread.
pub(super) fn with_parsed_code(check: fn()) {
    type Check = (fn(), Sender<thread::Result<()>>);
    static CHECKS: LazyLock<Sender<Check>> = LazyLock::new(|| {
        let (checks, queue) = mpsc::channel::<Check>();
        thread::spawn(move || {
            for (check, outcome) in queue {
                // The test may have ended.
                let _ = outcome.send(panic::catch_unwind(check));
            }
        });
        checks
    });
    let (outcome, ended) = mpsc::channel();
    CHECKS.send((check, outcome)).expect("the thread outlives the tests");
    if let Err(panic) = ended.recv().expect("the thread outlives the tests") {
        panic::resume_unwind(panic);
    }
}

fn library_of(name: &str) -> Vec<Code> {
    let alone: [(&str, &[&str]); 1] = [(name, &[])];
    let crates = if name == "couplet" { &CRATES[..] } else { &alone[..] };
    let files = |name: &str| sources(&format!("{}/src", folder_of(name)));
    crates.iter().flat_map(|(name, at)| code_of(files(name), name, at)).collect()
}

fn code_of(sources: Vec<Source>, name: &str, at: &[&str]) -> Vec<Code> {
    let files: Vec<Code> = sources.into_iter().map(|source| Code::new(source, name, at)).collect();
    // By declaration: a name such as `contests.rs` hides nothing.
    let tests: Vec<String> = files.iter().flat_map(test_modules).collect();
    let is_test = |file: &Code| {
        let path = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
        tests.iter().any(|module| {
            path.strip_prefix(&**module)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    files.into_iter().filter(|file| !is_test(file)).collect()
}

/// The paths of the test modules that a file declares, without endings.
fn test_modules(file: &Code) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').expect("a folder");
    let is_root = ["lib.rs", "main.rs", "mod.rs"].contains(&name);
    let below = if is_root { folder } else { file.path.trim_end_matches(".rs") };
    let declared = file.syntax.items.iter().filter_map(|item| match item {
        syn::Item::Mod(item) if item.content.is_none() && is_for_tests(&item.attrs) => Some(item),
        _ => None,
    });
    let path = |item: &syn::ItemMod| match path_attribute(&item.attrs) {
        Some(path) => format!("{folder}/{}", path.trim_end_matches(".rs")),
        None => format!("{below}/{}", item.ident),
    };
    declared.map(path).collect()
}

/// The text of `#[path = "…"]`.
pub(super) fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find(|attribute| attribute.path().is_ident("path")).map(|attribute| {
        match &attribute.meta {
            syn::Meta::NameValue(syn::MetaNameValue {
                value: syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }),
                ..
            }) => path.value(),
            _ => String::new(),
        }
    })
}

/// Raw names like their plain forms: `r#join` is `join`.
fn plain(tokens: TokenStream) -> TokenStream {
    let plain = |token| match token {
        TokenTree::Ident(name) => {
            let short = name.to_string();
            let short = short.strip_prefix("r#").and_then(|short| syn::parse_str(short).ok());
            let name = short.map_or(name.clone(), |mut short: syn::Ident| {
                short.set_span(name.span());
                short
            });
            TokenTree::Ident(name)
        }
        TokenTree::Group(group) => {
            let mut inside = Group::new(group.delimiter(), plain(group.stream()));
            inside.set_span(group.span());
            TokenTree::Group(inside)
        }
        token => token,
    };
    tokens.into_iter().map(plain).collect()
}

/// A path such as `crate::driver::Key`.
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    /// The enclosing function, as `Type::function`; empty at the top level.
    pub(super) function: String,
}

/// `receiver.name(arguments)`.
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: usize,
    /// The identifiers in the receiver: fields, locals, methods.
    pub(super) receiver: Vec<String>,
    pub(super) line: usize,
    pub(super) function: String,
}

/// A parsed file, with the paths and calls outside of its tests.
pub(super) struct Code {
    pub(super) path: String,
    pub(super) text: String,
    /// `driver::mio` for `src/driver/mio/mod.rs`; empty for the crate's root.
    pub(super) module: Vec<String>,
    pub(super) syntax: syn::File,
    pub(super) mentions: Vec<Mention>,
    pub(super) calls: Vec<Call>,
    /// The names that its module imports, and their full paths.
    pub(super) imported: BTreeMap<String, Vec<String>>,
    /// The same, also inside functions, and type aliases.
    pub(super) aliases: Vec<(String, Vec<String>)>,
    /// The modules inside the file, with their imports.
    pub(super) inner: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
}

impl Code {
    fn new(source: Source, crate_name: &str, at: &[&str]) -> Code {
        let parsed = match source.text.contains("r#") {
            true => source.text.parse().map_err(Into::into).and_then(|all| syn::parse2(plain(all))),
            false => syn::parse_file(&source.text),
        };
        let syntax = parsed.unwrap_or_else(|error| panic!("{}: {error}", source.path));
        let below = source.path.trim_start_matches(&format!("{}/src/", folder_of(crate_name)));
        let module = below.trim_end_matches(".rs").split('/').map(str::to_owned);
        let module = module.filter(|part| !["mod", "lib", "main"].contains(&part.as_str()));
        let at: Vec<_> = at.iter().map(|&part| part.to_owned()).collect();
        let module: Vec<_> = at.iter().cloned().chain(module).collect();
        let mut reading = Reading { at, module: module.clone(), ..Reading::default() };
        reading.visit_file(&syntax);
        let Reading { mentions, calls, imports: mut inner, aliases, .. } = reading;
        let imported = inner.remove(&module).unwrap_or_default();
        Code {
            path: source.path,
            text: source.text,
            module,
            syntax,
            mentions,
            calls,
            imported,
            aliases,
            inner,
        }
    }

    /// A file that is not in the library, for tests of the laws themselves.
    pub(super) fn of(path: &str, text: &str) -> Code {
        let path = format!("crates/couplet-core/src/{path}");
        Code::new(Source { path, text: text.to_owned() }, "couplet-core", &[])
    }

    /// The path with its first segment expanded, if that was imported.
    pub(super) fn meaning(&self, path: &[String]) -> Vec<String> {
        let local = |first| self.aliases.iter().find(|(name, _)| name == first);
        let imported = |first| self.imported.get(first).or_else(|| local(first).map(|(_, to)| to));
        match path.first().and_then(imported) {
            Some(whole) => whole.iter().chain(&path[1..]).cloned().collect(),
            None => path.to_vec(),
        }
    }
}

/// True for items under `#[cfg(test)]`, or `test` and more.
pub(super) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    fn requires_test(condition: &syn::Meta) -> bool {
        let all = Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated;
        match condition {
            syn::Meta::Path(path) => path.is_ident("test"),
            syn::Meta::List(list) if list.path.is_ident("all") => list
                .parse_args_with(all)
                .is_ok_and(|conditions| conditions.iter().any(requires_test)),
            _ => false,
        }
    }
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args().is_ok_and(|condition| requires_test(&condition))
    })
}

/// The attributes of an item.
pub(super) fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::ExternCrate(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

pub(super) fn line(span: Span) -> usize {
    span.start().line
}

/// The name of a type without its path and arguments: `Box` for `Box<Wire>`, `Wire` for
/// `&mut Wire`.
pub(super) fn name_of(ty: &syn::Type) -> String {
    match ty {
        syn::Type::Path(ty) => {
            ty.path.segments.last().map_or_else(String::new, |last| last.ident.to_string())
        }
        syn::Type::Reference(ty) => name_of(&ty.elem),
        syn::Type::Paren(ty) => name_of(&ty.elem),
        syn::Type::TraitObject(ty) => match ty.bounds.first() {
            Some(syn::TypeParamBound::Trait(bound)) => last_of(&bound.path),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// The last segment of a path.
pub(super) fn last_of(path: &syn::Path) -> String {
    path.segments.last().map_or_else(String::new, |last| last.ident.to_string())
}

/// The segments of a path; the first is empty if the path begins with `::`.
fn names(path: &syn::Path) -> Vec<String> {
    let root = path.leading_colon.map(|_| String::new());
    root.into_iter().chain(path.segments.iter().map(|segment| segment.ident.to_string())).collect()
}

/// One name of a `use`.
pub(super) struct Leaf {
    pub(super) path: Vec<String>,
    /// The local name; `*` for everything in `path`.
    pub(super) local: String,
    pub(super) line: usize,
}

/// The names of a `use`.
pub(super) fn leaves(tree: &syn::UseTree) -> Vec<Leaf> {
    fn collect(tree: &syn::UseTree, before: &[String], found: &mut Vec<Leaf>) {
        let (name, local, span) = match tree {
            syn::UseTree::Path(path) => {
                let before = [before, &[path.ident.to_string()]].concat();
                return collect(&path.tree, &before, found);
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| collect(tree, before, found));
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), None, name.span()),
            syn::UseTree::Rename(name) => {
                (name.ident.to_string(), Some(name.rename.to_string()), name.ident.span())
            }
            syn::UseTree::Glob(glob) => ("*".to_owned(), None, glob.span()),
        };
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name);
        }
        let local = local.or_else(|| path.last().cloned()).unwrap_or_default();
        found.push(Leaf { path, local, line: line(span) });
    }
    let mut found = Vec::new();
    collect(tree, &[], &mut found);
    found
}

/// Collects the paths and calls of a file.
#[derive(Default)]
struct Reading {
    /// The module that stands for the root of the crate.
    at: Vec<String>,
    module: Vec<String>,
    /// The enclosing types, traits and functions.
    around: Vec<String>,
    mentions: Vec<Mention>,
    calls: Vec<Call>,
    imports: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
    aliases: Vec<(String, Vec<String>)>,
    /// The number of enclosing blocks.
    depth: usize,
    /// The types of the enclosing `impl` blocks.
    selves: Vec<Vec<String>>,
}

/// Makes `self::…` and `super::…` absolute, and paths into crates of the library, in a module of a crate
/// that stands at a path.
fn absolute(at: &[String], module: &[String], mut path: Vec<String>) -> Vec<String> {
    let name = path.iter().position(|name| !name.is_empty()).unwrap_or(0);
    if module_of(&path[name]).is_some() {
        path.drain(..name);
    }
    if let Some(at) = module_of(&path[0]) {
        let at = at.iter().map(|&part| part.to_owned());
        return ["crate".to_owned()].into_iter().chain(at).chain(path[1..].to_vec()).collect();
    }
    if path[0] == "crate" {
        let at = at.iter().cloned();
        return ["crate".to_owned()].into_iter().chain(at).chain(path[1..].to_vec()).collect();
    }
    let mut module = module.to_vec();
    let mut rest = &path[..];
    let relative = matches!(rest.first().map(String::as_str), Some("self" | "super"));
    if !relative || path.len() == 1 {
        return path;
    }
    while let Some(first) = rest.first() {
        match first.as_str() {
            "self" => {}
            "super" => drop(module.pop()),
            _ => break,
        }
        rest = &rest[1..];
    }
    let up = path.iter().filter(|name| *name == "super").count();
    // `super` stays where it leaves the room: the law of rooms rejects that.
    let out = if up > 0 && module.is_empty() { "super" } else { "crate" };
    std::iter::once(out.to_owned()).chain(module).chain(rest.iter().cloned()).collect()
}

impl Reading {
    fn mention(&mut self, path: Vec<String>, line: usize) {
        let path = self.absolute_path(path);
        // `Self::now`.
        let path = match self.selves.last().filter(|_| path.len() > 1 && path[0] == "Self") {
            Some(own) => own.iter().chain(&path[1..]).cloned().collect(),
            None => path,
        };
        self.mentions.push(Mention { path, line, function: self.around.join("::") });
    }

    fn absolute_path(&self, path: Vec<String>) -> Vec<String> {
        absolute(&self.at, &self.module, path)
    }

    fn call(&mut self, name: &str, arguments: usize, receiver: &syn::Expr, span: Span) {
        let (receiver, function) = (names_through(receiver), self.around.join("::"));
        self.calls.push(Call {
            name: name.to_owned(),
            arguments,
            receiver,
            line: line(span),
            function,
        });
    }

    fn read_use(&mut self, item: &syn::ItemUse) {
        for Leaf { mut path, local, line } in leaves(&item.tree) {
            if item.leading_colon.is_some() {
                path.insert(0, String::new());
            }
            self.mention(path.clone(), line);
            if local != "*" {
                let whole = self.absolute_path(path);
                self.aliases.push((local.clone(), whole.clone()));
                if self.depth == 0 {
                    self.imports.entry(self.module.clone()).or_default().insert(local, whole);
                }
            }
        }
    }

    /// Finds paths and method calls in the tokens of a macro.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut path: Vec<String> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    // `use crate::{A, B}` in a macro.
                    if follows_colons(&tokens[..at]) {
                        for name in names_in(group.stream()) {
                            let whole = path.iter().cloned().chain([name]).collect();
                            self.mention(whole, line(group.span()));
                        }
                    }
                    self.read_tokens(group.stream());
                }
                TokenTree::Ident(name) => {
                    if !follows_colons(&tokens[..at]) {
                        path.clear();
                    }
                    // `<$kind>::new`.
                    if is_qualified(&tokens[..at]) {
                        path.push("$".to_owned());
                    }
                    // `$kind::new`, as opposed to `$crate::Kind`.
                    let before = at.checked_sub(1).map(|at| &tokens[at]);
                    let is_parameter = name != "crate"
                        && matches!(before, Some(TokenTree::Punct(mark)) if mark.as_char() == '$');
                    path.push(format!("{}{name}", if is_parameter { "$" } else { "" }));
                    let next = tokens.get(at + 1);
                    // `println!`, but not `a != b`.
                    let is_macro = matches!(next, Some(TokenTree::Punct(mark))
                        if mark.as_char() == '!' && mark.spacing() == Spacing::Alone);
                    if (path.len() > 1 || is_macro) && !is_joint_colon(next) {
                        self.mention(path.clone(), line(name.span()));
                    }
                    // `std::time::$kind` may be anything below.
                    let is_open = matches!(tokens.get(at + 3), Some(TokenTree::Punct(mark))
                        if mark.as_char() == '$');
                    if is_open && is_joint_colon(next) {
                        let whole = path.iter().cloned().chain(["*".to_owned()]).collect();
                        self.mention(whole, line(name.span()));
                    }
                    self.read_call_in_tokens(&tokens, at, name);
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    fn read_call_in_tokens(&mut self, tokens: &[TokenTree], at: usize, name: &syn::Ident) {
        let is =
            |token: &TokenTree, mark| matches!(token, TokenTree::Punct(at) if at.as_char() == mark);
        // `x.$method()`.
        let is_parameter = at > 0 && is(&tokens[at - 1], '$');
        let dot = at - usize::from(is_parameter);
        let after_dot =
            dot > 0 && is(&tokens[dot - 1], '.') && !(dot > 1 && is(&tokens[dot - 2], '.'));
        let Some(TokenTree::Group(group)) = tokens.get(at + 1) else { return };
        if !after_dot || group.delimiter() != Delimiter::Parenthesis {
            return;
        }
        let receiver = tokens[..dot].iter().rev();
        let receiver = receiver.take_while(|token| match token {
            TokenTree::Punct(punct) => [':', '.', '?', '&'].contains(&punct.as_char()),
            TokenTree::Ident(_) | TokenTree::Group(_) => true,
            TokenTree::Literal(_) => false,
        });
        let receiver = receiver.flat_map(|token| names_in(token.clone().into())).collect();
        self.calls.push(Call {
            name: format!("{}{name}", if is_parameter { "$" } else { "" }),
            arguments: arguments_in(group.stream()),
            receiver,
            line: line(name.span()),
            function: self.around.join("::"),
        });
    }
}

/// True after `name::`.
fn follows_colons(before: &[TokenTree]) -> bool {
    let [.., TokenTree::Ident(_), TokenTree::Punct(a), TokenTree::Punct(b)] = before else {
        return false;
    };
    a.as_char() == ':' && b.as_char() == ':'
}

/// True after `>::`.
fn is_qualified(before: &[TokenTree]) -> bool {
    let [.., TokenTree::Punct(of), TokenTree::Punct(a), TokenTree::Punct(b)] = before else {
        return false;
    };
    of.as_char() == '>' && a.as_char() == ':' && b.as_char() == ':'
}

/// True for the first colon of `::`.
fn is_joint_colon(token: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Punct(colon)) = token else { return false };
    colon.as_char() == ':' && colon.spacing() == Spacing::Joint
}

/// The number of arguments in a list of tokens.
fn arguments_in(tokens: TokenStream) -> usize {
    let parts: Vec<TokenTree> = tokens.into_iter().collect();
    let is_comma =
        |token: &TokenTree| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',');
    parts.split(is_comma).filter(|part| !part.is_empty()).count()
}

/// All identifiers in a token stream.
pub(super) fn names_in(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(name) => found.push(name.to_string()),
            TokenTree::Group(group) => found.extend(names_in(group.stream())),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    found
}

/// The identifiers in an expression: fields, locals, methods.
pub(super) fn names_through(expression: &syn::Expr) -> Vec<String> {
    struct Names(Vec<String>);
    impl Visit<'_> for Names {
        fn visit_ident(&mut self, name: &syn::Ident) {
            self.0.push(name.to_string());
        }
        fn visit_macro(&mut self, call: &syn::Macro) {
            self.0.extend(names_in(call.tokens.clone()));
        }
    }
    let mut names = Names(Vec::new());
    names.visit_expr(expression);
    names.0
}

fn casts_to_a_pointer(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Cast(cast) => {
            matches!(&*cast.ty, syn::Type::Ptr(_)) || casts_to_a_pointer(&cast.expr)
        }
        syn::Expr::Paren(inner) => casts_to_a_pointer(&inner.expr),
        syn::Expr::RawAddr(_) => true,
        _ => false,
    }
}

impl Visit<'_> for Reading {
    fn visit_item(&mut self, item: &syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        self.module.push(item.ident.to_string());
        self.imports.entry(self.module.clone()).or_default();
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_block(&mut self, block: &syn::Block) {
        self.depth += 1;
        visit::visit_block(self, block);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        self.read_use(item);
    }

    fn visit_attribute(&mut self, attribute: &syn::Attribute) {
        // `#[cfg_attr(unix, tokio::main)]`.
        match &attribute.meta {
            syn::Meta::List(list) if list.path.is_ident("cfg_attr") => {
                self.read_tokens(list.tokens.clone());
            }
            _ => visit::visit_attribute(self, attribute),
        }
    }

    fn visit_item_extern_crate(&mut self, item: &syn::ItemExternCrate) {
        self.mention(vec![String::new(), item.ident.to_string()], line(item.ident.span()));
        if let Some((_, name)) = &item.rename {
            let whole = vec![String::new(), item.ident.to_string()];
            self.aliases.push((name.to_string(), whole));
        }
    }

    fn visit_item_type(&mut self, item: &syn::ItemType) {
        if let syn::Type::Path(ty) = &*item.ty {
            self.aliases.push((item.ident.to_string(), self.absolute_path(names(&ty.path))));
        }
        visit::visit_item_type(self, item);
    }

    fn visit_item_impl(&mut self, item: &syn::ItemImpl) {
        self.around.push(name_of(&item.self_ty));
        self.selves.push(match &*item.self_ty {
            syn::Type::Path(ty) => self.absolute_path(names(&ty.path)),
            ty => vec![name_of(ty)],
        });
        visit::visit_item_impl(self, item);
        self.selves.pop();
        self.around.pop();
    }

    fn visit_item_trait(&mut self, item: &syn::ItemTrait) {
        self.around.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.around.pop();
    }

    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        self.around.push(item.sig.ident.to_string());
        visit::visit_item_fn(self, item);
        self.around.pop();
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.around.push(item.sig.ident.to_string());
        visit::visit_impl_item_fn(self, item);
        self.around.pop();
    }

    fn visit_trait_item_fn(&mut self, item: &syn::TraitItemFn) {
        self.around.push(item.sig.ident.to_string());
        visit::visit_trait_item_fn(self, item);
        self.around.pop();
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.mention(names(path), line(path.span()));
        visit::visit_path(self, path);
    }

    fn visit_expr_path(&mut self, path: &syn::ExprPath) {
        // The path of `<dyn Driver>::write` is just `write`.
        if let Some(own) = path.qself.as_ref().filter(|own| own.position == 0) {
            let own = match &*own.ty {
                syn::Type::Path(ty) => names(&ty.path),
                ty => vec![name_of(ty)],
            };
            let is_named = !own[0].is_empty() || own.len() > 1;
            let whole =
                own.into_iter().chain(path.path.segments.iter().map(|s| s.ident.to_string()));
            if is_named {
                self.mention(whole.collect(), line(path.span()));
            }
            // Visits the type, and the path's arguments without the path.
            visit::visit_type(self, &path.qself.as_ref().expect("as above").ty);
            return path.path.segments.iter().for_each(|s| self.visit_path_arguments(&s.arguments));
        }
        visit::visit_expr_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &syn::ExprMethodCall) {
        let name = call.method.to_string();
        self.call(&name, call.args.len(), &call.receiver, call.method.span());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_cast(&mut self, cast: &syn::ExprCast) {
        const ADDRESSES: [&str; 6] =
            ["as_mut_ptr", "as_mut_ptr_range", "as_ptr", "as_ptr_range", "from_mut", "from_ref"];
        let is_number = !matches!(&*cast.ty, syn::Type::Ptr(_));
        let from = names_through(&cast.expr);
        let is_address = from.iter().any(|name| ADDRESSES.contains(&name.as_str()));
        if is_number && (is_address || casts_to_a_pointer(&cast.expr)) {
            self.call("addr", 0, &cast.expr, cast.as_token.span());
        }
        visit::visit_expr_cast(self, cast);
    }

    fn visit_lit_str(&mut self, text: &syn::LitStr) {
        // `{:p}`.
        if [":p}", ":#p}"].iter().any(|form| text.value().contains(form)) {
            let path = ["std", "fmt", "Pointer"].map(str::to_owned).to_vec();
            self.mention(path, line(text.span()));
        }
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.mention(names(&call.path), line(call.path.span()));
        // Most macros take expressions.
        let parser = Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        match call.parse_body_with(parser) {
            Ok(list) => {
                list.iter().for_each(|expression| self.visit_expr(expression));
            }
            Err(_) => self.read_tokens(call.tokens.clone()),
        }
    }
}
