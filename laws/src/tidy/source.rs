//! The sources under test, parsed: every path and every method call outside of tests, with its line
//! and the enclosing function.
//!
//! The laws check syntax rather than text: comments and strings break no law, and an import, an
//! alias or a line break hides nothing. Macro arguments that are not expressions are scanned as
//! tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{fs, mem};

use proc_macro2::{Delimiter, Group, Spacing, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A file of the workspace.
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

/// The files with one of some endings below a folder, sorted; no links to other files.
pub(super) fn files(below: &str, endings: &[&str]) -> Vec<Source> {
    let mut found: Vec<Source> = Vec::new();
    for name in names_in_folder(below) {
        let path = Path::new(below).join(&name).display().to_string();
        let kind = fs::symlink_metadata(root().join(&path)).expect("an entry");
        if kind.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, endings));
        } else if kind.is_file() && endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(Source { text: read(&path), path });
        }
    }
    found
}

/// The names in a folder, sorted.
pub(super) fn names_in_folder(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder));
    let entries = entries.unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut names: Vec<_> =
        entries.map(|it| it.expect("an entry").file_name().display().to_string()).collect();
    names.sort();
    names
}

/// The Rust files below a folder of the workspace.
pub(super) fn sources(below: &str) -> Vec<Source> {
    files(below, &[".rs"])
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

/// The whole library, as its facade shows it: paths into its crates begin with `crate`.
pub(super) static LIBRARY: LazyLock<Vec<Code>> = LazyLock::new(|| {
    let crates = names_in_folder("crates").into_iter().filter(|name| module_of(name).is_some());
    crates.flat_map(|name| code_of(&name)).collect()
});

/// The files of a crate's `src`, without unit tests.
pub(super) fn code_of(name: &str) -> Vec<Code> {
    let files = sources(&format!("crates/{name}/src")).into_iter();
    let mut files: Vec<Code> = files.map(Code::new).collect();
    // By declaration: a name such as `contests.rs` hides nothing.
    let tests: Vec<_> = files.iter_mut().flat_map(|file| mem::take(&mut file.tests)).collect();
    files.retain(|file| !tests.iter().any(|module| file.module.starts_with(module)));
    files
}

/// A path such as `crate::driver::Key`.
pub(super) struct Mention {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// `receiver.name(arguments)`, or a path `Type::name`, called or stored.
pub(super) struct Call {
    pub(super) name: String,
    /// The number of arguments; `None` for a path.
    pub(super) arguments: Option<usize>,
    pub(super) line: usize,
    /// The enclosing function, as `Type::function`; empty at the top level.
    pub(super) function: String,
}

/// A file, with the paths and calls outside of its tests.
#[derive(Default)]
pub(super) struct Code {
    pub(super) path: String,
    pub(super) text: String,
    /// `driver::mio` for `src/driver/mio/mod.rs`; empty for the crate's root.
    pub(super) module: Vec<String>,
    pub(super) mentions: Vec<Mention>,
    pub(super) calls: Vec<Call>,
    /// The names that its module, and those inside it, import, and their full paths.
    pub(super) imports: BTreeMap<Vec<String>, BTreeMap<String, Vec<String>>>,
    /// The same, also inside functions, and type aliases.
    pub(super) aliases: Vec<(String, Vec<String>)>,
    /// The modules of unit tests that it declares.
    tests: Vec<Vec<String>>,
}

impl Code {
    fn new(Source { path, text }: Source) -> Code {
        let mut names = path.trim_end_matches(".rs").split('/').map(str::to_owned).skip(1);
        let at = names.next().and_then(|name| module_of(&name)).unwrap_or_default();
        let names = names.filter(|name| !["src", "mod", "lib", "main"].contains(&name.as_str()));
        let module: Vec<_> = at.iter().cloned().chain(names).collect();
        let imports = [(module.clone(), BTreeMap::new())].into();
        let code = Code { path, text, module: module.clone(), imports, ..Code::default() };
        let syntax = code.syntax();
        let mut reading = Reading { code, at, module, ..Reading::default() };
        reading.visit_file(&syntax);
        reading.code
    }

    /// A file that is not in the library, for tests of the laws themselves.
    pub(super) fn of(path: &str, text: &str) -> Code {
        let path = format!("crates/couplet-core/src/{path}");
        Code::new(Source { path, text: text.to_owned() })
    }

    /// Parses the text: a tree can't leave its thread.
    pub(super) fn syntax(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }
}

/// True for items under `#[cfg(test)]`, or `test` and more.
pub(super) fn is_for_tests(item: &impl ToTokens) -> bool {
    let tokens: Vec<TokenTree> = item.to_token_stream().into_iter().collect();
    let attributes = tokens.chunks(2).map_while(|pair| match pair {
        [hash, TokenTree::Group(attribute)] if is(hash, '#') => Some(names_in(attribute.stream())),
        _ => None,
    });
    let has = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
    let is_condition = |names: &Vec<String>| names.first().is_some_and(|name| name == "cfg");
    let mut conditions = attributes.filter(is_condition);
    conditions.any(|it| has(&it, "test") && !has(&it, "any") && !has(&it, "not"))
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

/// The name of the trait that a block implements; empty if it implements none.
pub(super) fn trait_of(item: &syn::ItemImpl) -> String {
    item.trait_.as_ref().map_or_else(String::new, |(path, ..)| last_of(path))
}

/// The segments of a path; the first is empty if the path begins with `::`.
fn names(path: &syn::Path) -> Vec<String> {
    let root = path.leading_colon.map(|_| String::new());
    root.into_iter().chain(path.segments.iter().map(|segment| segment.ident.to_string())).collect()
}

/// The path of a type; of a reference or an object, its name.
fn names_of(ty: &syn::Type) -> Vec<String> {
    match ty {
        syn::Type::Path(ty) => names(&ty.path),
        ty => vec![name_of(ty)],
    }
}

/// Collects the paths and calls of a file.
#[derive(Default)]
struct Reading {
    code: Code,
    /// The module that stands for the root of the crate.
    at: Vec<String>,
    module: Vec<String>,
    /// The enclosing types, traits and functions.
    around: Vec<String>,
    /// The number of enclosing blocks.
    depth: usize,
    /// The types of the enclosing `impl` blocks.
    selves: Vec<Vec<String>>,
}

impl Reading {
    /// Visits the inside of a trait or a function.
    fn inside(&mut self, name: &syn::Ident, visit: impl FnOnce(&mut Reading)) {
        self.around.push(name.to_string());
        visit(self);
        self.around.pop();
    }

    fn mention(&mut self, path: Vec<String>, line: usize) {
        let path = self.absolute(path);
        // `Self::now`.
        let path = match self.selves.last() {
            Some(own) if path.len() > 1 && path[0] == "Self" => [own, &path[1..]].concat(),
            _ => path,
        };
        // `framing::feed` is a free function; types start with a capital letter.
        if let [.., owner, name] = &path[..]
            && owner.starts_with(char::is_uppercase)
        {
            self.call(name.clone(), None, line);
        }
        self.code.mentions.push(Mention { path, line });
    }

    /// Makes `self::…` and `super::…` absolute, and paths into crates of the library.
    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let root = "crate".to_owned();
        let name = path.iter().position(|name| !name.is_empty()).unwrap_or(0);
        if let Some(at) = module_of(&path[name]) {
            return [&[root], &at[..], &path[name + 1..]].concat();
        }
        if path[0] == "crate" {
            return [&[root], &self.at[..], &path[1..]].concat();
        }
        if path.len() == 1 || !["self", "super"].contains(&&*path[0]) {
            return path;
        }
        let rest = path.iter().position(|name| !["self", "super"].contains(&&**name));
        let (relative, rest) = path.split_at(rest.unwrap_or(path.len()));
        let ups = relative.iter().filter(|name| *name == "super").count();
        let module = &self.module[..self.module.len().saturating_sub(ups)];
        // `super` stays where it leaves the room: the law of rooms rejects that.
        let out = if ups > 0 && module.is_empty() { "super".to_owned() } else { root };
        [&[out], module, rest].concat()
    }

    fn call(&mut self, name: String, arguments: Option<usize>, line: usize) {
        let function = self.around.join("::");
        self.code.calls.push(Call { name, arguments, line, function });
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
            let whole = self.absolute(path);
            self.code.aliases.push((local.clone(), whole.clone()));
            if self.depth == 0 {
                self.code.imports.entry(self.module.clone()).or_default().insert(local, whole);
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
        self.call(name.to_string(), Some(arguments.count()), line(name.span()));
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

/// The tokens of a stream, with those inside its groups.
pub(super) fn flat(tokens: TokenStream) -> Vec<TokenTree> {
    let tokens = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => flat(group.stream()),
        token => vec![token],
    });
    tokens.collect()
}

/// All identifiers in a token stream.
pub(super) fn names_in(tokens: TokenStream) -> Vec<String> {
    let names = flat(tokens).into_iter().filter_map(|token| match token {
        TokenTree::Ident(name) => Some(name.to_string()),
        _ => None,
    });
    names.collect()
}

/// The names of the functions that a token stream defines.
pub(super) fn functions_in(tokens: TokenStream) -> Vec<String> {
    let names = names_in(tokens);
    let functions = names.windows(2).filter(|pair| pair[0] == "fn");
    functions.map(|pair| pair[1].clone()).collect()
}

impl Visit<'_> for Reading {
    fn visit_item(&mut self, item: &syn::Item) {
        match item {
            _ if !is_for_tests(item) => visit::visit_item(self, item),
            syn::Item::Mod(it) if it.content.is_none() => {
                self.code.tests.push([&self.module[..], &[it.ident.to_string()]].concat());
            }
            _ => {}
        }
    }

    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        self.module.push(item.ident.to_string());
        self.code.imports.entry(self.module.clone()).or_default();
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
        if let syn::Meta::List(list) = &attribute.meta
            && list.path.is_ident("cfg_attr")
        {
            self.read_tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_item_extern_crate(&mut self, item: &syn::ItemExternCrate) {
        let path = vec![String::new(), item.ident.to_string()];
        let alias = item.rename.iter().map(|(_, name)| (name.to_string(), path.clone()));
        self.code.aliases.extend(alias);
        self.mention(path, line(item.ident.span()));
    }

    fn visit_item_type(&mut self, item: &syn::ItemType) {
        if let syn::Type::Path(ty) = &*item.ty {
            self.code.aliases.push((item.ident.to_string(), self.absolute(names(&ty.path))));
        }
        visit::visit_item_type(self, item);
    }

    fn visit_item_impl(&mut self, item: &syn::ItemImpl) {
        self.around.push(name_of(&item.self_ty));
        self.selves.push(self.absolute(names_of(&item.self_ty)));
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
        if !is_for_tests(item) {
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
        let ty = names_of(&own.ty);
        if ty.concat() != "" {
            let rest = path.path.segments.iter().map(|segment| segment.ident.to_string());
            self.mention(ty.into_iter().chain(rest).collect(), line(path.span()));
        }
        // The type, and the path's arguments without the path.
        self.visit_type(&own.ty);
        path.path.segments.iter().for_each(|s| self.visit_path_arguments(&s.arguments));
    }

    fn visit_expr_method_call(&mut self, call: &syn::ExprMethodCall) {
        self.call(call.method.to_string(), Some(call.args.len()), line(call.method.span()));
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
