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
use quote::ToTokens;
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

/// The files with one of some endings below a folder, relative to the workspace; no links to other
/// files.
pub(super) fn files(below: &str, endings: &[&str]) -> Vec<String> {
    let entries =
        fs::read_dir(root().join(below)).unwrap_or_else(|error| panic!("{below}: {error}"));
    let entries = entries.map(|entry| entry.expect("an entry"));
    let mut entries: Vec<_> = entries.map(|it| (it.file_name(), it.file_type())).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    let mut found = Vec::new();
    for (name, kind) in entries {
        let (name, kind) = (name.to_string_lossy(), kind.expect("a type"));
        let path =
            format!("{}/{name}", below.trim_end_matches('/')).trim_start_matches('/').to_owned();
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, endings));
        } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found
}

/// The names in a folder, without endings, sorted.
pub(super) fn stems(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut names: Vec<_> =
        paths.map(|path| path.file_stem().unwrap_or_default().display().to_string()).collect();
    names.sort();
    names
}

/// The Rust files below a folder of the workspace.
pub(super) fn sources(below: &str) -> Vec<Source> {
    files(below, &[".rs"]).into_iter().map(|path| Source { text: read(&path), path }).collect()
}

/// Fails with the rule and each line that breaks it.
pub(super) fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

/// The crates that are not of the library: system calls, and parts of programs.
const OTHERS: [&str; 3] = ["command", "os", "runner"];

/// The module at which the facade, `couplet`, exports a crate of the library, its root for the
/// core and the Deferreds.
fn module_of(name: &str) -> Option<Vec<String>> {
    let module = name.strip_prefix("couplet")?.trim_start_matches(['-', '_']);
    let at = (!["", "core", "defer"].contains(&module)).then(|| module.to_owned());
    (!OTHERS.contains(&module)).then(|| at.into_iter().collect())
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
    match name {
        "couplet" => {
            let crates = stems("crates").into_iter().filter(|name| module_of(name).is_some());
            crates.flat_map(|name| code_of(&name)).collect()
        }
        _ => code_of(name),
    }
}

fn code_of(name: &str) -> Vec<Code> {
    let files = sources(&format!("crates/{name}/src")).into_iter();
    let files: Vec<Code> = files.map(|source| Code::new(source, name)).collect();
    // By declaration: a name such as `contests.rs` hides nothing.
    let tests: Vec<String> = files.iter().flat_map(test_modules).collect();
    let is_test = |file: &Code| {
        let path = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
        let mut rest = tests.iter().filter_map(|module| path.strip_prefix(&**module));
        rest.any(|rest| rest.is_empty() || rest.starts_with('/'))
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
    declared.map(|item| format!("{below}/{}", item.ident)).collect()
}

/// A path such as `crate::driver::Key`.
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    /// The enclosing function, as `Type::function`; empty at the top level.
    pub(super) function: String,
}

/// `receiver.name(arguments)`, with the number of arguments.
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: usize,
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
    fn new(source: Source, crate_name: &str) -> Code {
        let syntax = syn::parse_file(&source.text);
        let syntax = syntax.unwrap_or_else(|error| panic!("{}: {error}", source.path));
        let below = source.path.trim_start_matches(&format!("crates/{crate_name}/src/"));
        let module = below.trim_end_matches(".rs").split('/').map(str::to_owned);
        let module = module.filter(|part| !["mod", "lib", "main"].contains(&part.as_str()));
        let at = module_of(crate_name).unwrap_or_default();
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
        Code::new(Source { path, text: text.to_owned() }, "couplet-core")
    }
}

/// True for items under `#[cfg(test)]`, or `test` and more.
pub(super) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    let mut names = conditions.map(|condition| names_in(condition.meta.to_token_stream()));
    names.any(|names| {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        has("test") && !has("any") && !has("not")
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
        syn::Type::Path(ty) => last_of(&ty.path),
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
pub(super) fn absolute(at: &[String], module: &[String], path: Vec<String>) -> Vec<String> {
    let root = "crate".to_owned();
    let name = path.iter().position(|name| !name.is_empty()).unwrap_or(0);
    if let Some(at) = module_of(&path[name]) {
        return [&[root], &at[..], &path[name + 1..]].concat();
    }
    if path[0] == "crate" {
        return [&[root], at, &path[1..]].concat();
    }
    if path.len() == 1 || !["self", "super"].contains(&&*path[0]) {
        return path;
    }
    let rest = path.iter().position(|name| !["self", "super"].contains(&&**name));
    let (relative, rest) = path.split_at(rest.unwrap_or(path.len()));
    let ups = relative.iter().filter(|name| *name == "super").count();
    let module = &module[..module.len().saturating_sub(ups)];
    // `super` stays where it leaves the room: the law of rooms rejects that.
    let out = if ups > 0 && module.is_empty() { "super".to_owned() } else { root };
    [&[out], module, rest].concat()
}

impl Reading {
    /// Visits the inside of a trait or a function.
    fn inside(&mut self, name: &syn::Ident, visit: impl FnOnce(&mut Reading)) {
        self.around.push(name.to_string());
        visit(self);
        self.around.pop();
    }

    fn mention(&mut self, path: Vec<String>, line: usize) {
        let path = self.absolute_path(path);
        // `Self::now`.
        let path = match self.selves.last() {
            Some(own) if path.len() > 1 && path[0] == "Self" => [own, &path[1..]].concat(),
            _ => path,
        };
        self.mentions.push(Mention { path, line, function: self.around.join("::") });
    }

    fn absolute_path(&self, path: Vec<String>) -> Vec<String> {
        absolute(&self.at, &self.module, path)
    }

    fn call(&mut self, name: &syn::Ident, arguments: usize) {
        let (line, function) = (line(name.span()), self.around.join("::"));
        self.calls.push(Call { name: name.to_string(), arguments, line, function });
    }

    /// Reads the names of a `use`, below a path.
    fn read_use(&mut self, tree: &syn::UseTree, mut path: Vec<String>) {
        let (name, renamed) = match tree {
            syn::UseTree::Path(of) => {
                path.push(of.ident.to_string());
                return self.read_use(&of.tree, path);
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.read_use(tree, path.clone()));
            }
            syn::UseTree::Name(name) => (name.ident.to_string(), None),
            syn::UseTree::Rename(name) => (name.ident.to_string(), Some(name.rename.to_string())),
            syn::UseTree::Glob(_) => ("*".to_owned(), None),
        };
        if name != "self" {
            path.push(name);
        }
        self.mention(path.clone(), line(tree.span()));
        let local = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
        if local != "*" {
            let whole = self.absolute_path(path);
            self.aliases.push((local.clone(), whole.clone()));
            if self.depth == 0 {
                self.imports.entry(self.module.clone()).or_default().insert(local, whole);
            }
        }
    }

    /// Finds paths and method calls in the tokens of a macro.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut path: Vec<String> = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            let before = &tokens[..at];
            let next = tokens.get(at + 1);
            match token {
                TokenTree::Group(group) => {
                    // `use crate::{A, B}`.
                    let names = names_in(group.stream()).into_iter().filter(|_| is_path(before));
                    for name in names {
                        self.mention([&path[..], &[name]].concat(), line(group.span()));
                    }
                    self.read_tokens(group.stream());
                }
                TokenTree::Ident(name) => {
                    // `$kind::new`, as opposed to `$crate::Kind`.
                    let is_parameter =
                        before.last().is_some_and(|it| is(it, '$')) && name != "crate";
                    let before = &before[..before.len() - usize::from(is_parameter)];
                    if !is_path(before) {
                        path.clear();
                    }
                    // `std::time::$kind` may be anything below.
                    path.push(if is_parameter { "*".to_owned() } else { name.to_string() });
                    let goes_on = next.is_some_and(|it| is_joint(it, ':')) && !is_parameter;
                    // `println!`, but not `a != b`.
                    let is_macro = next.is_some_and(|it| is(it, '!') && !is_joint(it, '!'));
                    if (path.len() > 1 || is_macro) && !goes_on {
                        self.mention(path.clone(), line(name.span()));
                    }
                    if let Some(TokenTree::Group(group)) = next {
                        self.read_call_in_tokens(before, name, group);
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Reads `receiver.name(group)`.
    fn read_call_in_tokens(&mut self, before: &[TokenTree], name: &syn::Ident, group: &Group) {
        let [receiver @ .., dot] = before else { return };
        let is_range = receiver.last().is_some_and(|it| is(it, '.'));
        if !is(dot, '.') || is_range || group.delimiter() != Delimiter::Parenthesis {
            return;
        }
        let arguments: Vec<TokenTree> = group.stream().into_iter().collect();
        let arguments = arguments.split(|it| is(it, ',')).filter(|part| !part.is_empty());
        self.call(name, arguments.count());
    }
}

/// True for this mark.
pub(super) fn is(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(it) if it.as_char() == mark)
}

/// True for the first character of `::` or `!=`.
fn is_joint(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(it) if it.as_char() == mark && it.spacing() == Spacing::Joint)
}

/// True after `name::`.
fn is_path(before: &[TokenTree]) -> bool {
    matches!(before, [.., TokenTree::Ident(_), a, b] if is(a, ':') && is(b, ':'))
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
        let root = item.leading_colon.map(|_| String::new());
        self.read_use(&item.tree, root.into_iter().collect());
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
        self.inside(&item.ident, |reading| visit::visit_item_trait(reading, item));
    }

    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        self.inside(&item.sig.ident, |reading| visit::visit_item_fn(reading, item));
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            self.inside(&item.sig.ident, |reading| visit::visit_impl_item_fn(reading, item));
        }
    }

    fn visit_trait_item_fn(&mut self, item: &syn::TraitItemFn) {
        self.inside(&item.sig.ident, |reading| visit::visit_trait_item_fn(reading, item));
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.mention(names(path), line(path.span()));
        visit::visit_path(self, path);
    }

    fn visit_expr_path(&mut self, path: &syn::ExprPath) {
        // The path of `<dyn Driver>::write` is just `write`.
        let Some(own) = path.qself.as_ref().filter(|own| own.position == 0) else {
            return visit::visit_expr_path(self, path);
        };
        let ty = match &*own.ty {
            syn::Type::Path(ty) => names(&ty.path),
            ty => vec![name_of(ty)],
        };
        if ty.concat() != "" {
            let rest = path.path.segments.iter().map(|segment| segment.ident.to_string());
            self.mention(ty.into_iter().chain(rest).collect(), line(path.span()));
        }
        // The type, and the path's arguments without the path.
        self.visit_type(&own.ty);
        path.path.segments.iter().for_each(|s| self.visit_path_arguments(&s.arguments));
    }

    fn visit_expr_method_call(&mut self, call: &syn::ExprMethodCall) {
        self.call(&call.method, call.args.len());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.mention(names(&call.path), line(call.path.span()));
        // Most macros take expressions.
        let parser = Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        match call.parse_body_with(parser) {
            Ok(list) => list.iter().for_each(|expression| self.visit_expr(expression)),
            Err(_) => self.read_tokens(call.tokens.clone()),
        }
    }
}
