//! The public API, line by line; `compatible.rs` compares it with the last release's.
//!
//! The list is read from the sources: every item that can be named from outside, its public fields,
//! variants and methods, and the traits that it implements. A line begins with the shortest public
//! path. Items that macros generate from tokens are missing, as are blanket implementations.

use std::collections::{BTreeMap, BTreeSet};

use quote::{ToTokens, quote};
use syn::punctuated::Punctuated;
use syn::{Fields, ImplItem, Item, TraitItem, Visibility};

use super::source::{Code, assert_none, leaves, library, module_of, name_of, with_parsed_code};

/// A path, without the crate's own name.
type Path = Vec<String>;

/// The items of the crate by the path at which they are defined, and the imports of each module.
struct Crate {
    items: BTreeMap<Path, Item>,
    modules: BTreeMap<Path, Vec<Item>>,
    imports: BTreeMap<Path, BTreeMap<String, Path>>,
}

/// Every public item of the library, a line each.
pub(super) fn public_items(files: &[Code]) -> BTreeSet<String> {
    Crate::of(files).list()
}

/// Tokens, formatted like hand-written code.
fn text(tokens: impl ToTokens) -> String {
    let mut text = tokens.to_token_stream().to_string();
    for (from, to) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" <", "<"),
        (" >", ">"),
        (" ,", ","),
        (",)", ")"),
        ("& ", "&"),
        (" (", "("),
        ("( ", "("),
        (" )", ")"),
        (" :", ":"),
        (" ;", ";"),
        ("? ", "?"),
        (" [", "["),
        ("[ ", "["),
        (" ]", "]"),
        (" !", "!"),
        ("# ", "#"),
        (",>", ">"),
        ("&mut(", "&mut ("),
        ("->(", "-> ("),
        ("=(", "= ("),
    ] {
        text = text.replace(from, to);
    }
    text
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// The attributes that belong to the interface, in front of an item.
fn attributes(attributes: &[syn::Attribute]) -> String {
    let shown = ["cfg", "non_exhaustive"];
    let shown = attributes.iter().filter(|a| shown.iter().any(|name| a.path().is_ident(name)));
    shown.map(|attribute| format!("{} ", text(attribute))).collect()
}

/// The traits that an item derives.
fn derived(attributes: &[syn::Attribute]) -> Vec<String> {
    let lists = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    let parser = Punctuated::<syn::Path, syn::Token![,]>::parse_terminated;
    lists.filter_map(|list| list.parse_args_with(parser).ok()).flatten().map(text).collect()
}

/// An item's attributes, visibility and name, if it has them.
fn named(item: &Item) -> Option<(&[syn::Attribute], &Visibility, String)> {
    Some(match item {
        Item::Const(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        Item::Enum(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        Item::Fn(i) => (&i.attrs, &i.vis, i.sig.ident.to_string()),
        Item::Mod(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        Item::Static(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        Item::Struct(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        Item::Trait(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        Item::Type(i) => (&i.attrs, &i.vis, i.ident.to_string()),
        _ => return None,
    })
}

/// Whether the root of a crate re-exports the item from another crate of the library, or has it for
/// one: the facade leaves both out.
fn is_left_out(item: &Item, module: &[String]) -> bool {
    match item {
        Item::Use(item) if module.is_empty() => {
            let mut leaves = leaves(&item.tree).into_iter();
            is_public(&item.vis) && leaves.any(|leaf| leaf.path[0].starts_with("couplet_"))
        }
        Item::Mod(item) => {
            item.ident == "hooks" || item.attrs.iter().any(|a| text(a) == "#[doc(hidden)]")
        }
        _ => false,
    }
}

impl Crate {
    fn of(files: &[Code]) -> Crate {
        let mut all =
            Crate { items: BTreeMap::new(), modules: BTreeMap::new(), imports: BTreeMap::new() };
        for file in files {
            for item in file.syntax.items.iter().filter(|item| !is_left_out(item, &file.module)) {
                if let Some((_, _, name)) = named(item) {
                    let path = file.module.iter().cloned().chain([name]).collect();
                    all.items.insert(path, item.clone());
                }
                // The facade shares its root with the core.
                all.modules.entry(file.module.clone()).or_default().push(item.clone());
            }
            let imported = file.imported.iter().filter(|(name, path)| {
                // The facade's `couplet_http` is the module `http` itself.
                !file.module.is_empty() || **path != ["crate", name]
            });
            let imported = imported.map(|(name, path)| (name.clone(), path.clone()));
            all.imports.entry(file.module.clone()).or_default().extend(imported);
        }
        // The facade's `pub use couplet_http as http`.
        let exported = files.first().into_iter().flat_map(|facade| &facade.imported);
        for (name, _) in exported.filter(|(name, path)| **path == ["crate", name]) {
            let path = vec![name.clone()];
            if all.modules.contains_key(&path) {
                let name = quote::format_ident!("{}", path[0]);
                let item: Item = syn::parse_quote!(pub mod #name {});
                all.items.insert(path, item.clone());
                all.modules.entry(Path::new()).or_default().push(item);
            }
        }
        all
    }

    /// The path at which the item named by `path` in a module is defined; `None` for an item of
    /// another crate.
    fn defined(&self, module: &[String], path: &[String]) -> Option<Path> {
        self.defined_within(8, module, path)
    }

    /// [`defined`](Self::defined), following a limited number of imports, since imports may form a
    /// cycle.
    fn defined_within(&self, steps: u32, module: &[String], path: &[String]) -> Option<Path> {
        let steps = steps.checked_sub(1)?;
        let absolute: Path = match path[0].as_str() {
            "crate" => path[1..].to_vec(),
            "self" => module.iter().chain(&path[1..]).cloned().collect(),
            "super" => {
                let above = &module[..module.len().checked_sub(1)?];
                return self.defined_within(steps, above, &path[1..]);
            }
            name => match module_of(name) {
                Some(at) => {
                    at.iter().map(|&part| part.to_owned()).chain(path[1..].to_vec()).collect()
                }
                None => module.iter().chain(path).cloned().collect(),
            },
        };
        // A private module may share its name with a re-exported item.
        let import =
            absolute.split_last().and_then(|(name, module)| self.imports.get(module)?.get(name));
        let is_module = matches!(self.items.get(&absolute), Some(Item::Mod(_)));
        if self.items.contains_key(&absolute) && !(is_module && import.is_some()) {
            return Some(absolute);
        }
        // Through a re-export or import of the module in which the path ends or begins.
        for length in (0..absolute.len()).rev() {
            let target =
                self.imports.get(&absolute[..length]).and_then(|i| i.get(&absolute[length]));
            if let Some(target) = target.filter(|target| **target != absolute[length..]) {
                let whole: Path = target.iter().chain(&absolute[length + 1..]).cloned().collect();
                return self.defined_within(steps, &absolute[..length], &whole);
            }
        }
        None
    }

    /// The public paths of every item that can be named from outside, by the path of its
    /// definition.
    fn public(&self, lines: &mut BTreeSet<String>) -> BTreeMap<Path, Path> {
        let mut found: BTreeMap<Path, Path> = BTreeMap::new();
        let mut queue = vec![(Path::new(), Path::new())];
        while let Some((module, public)) = (!queue.is_empty()).then(|| queue.remove(0)) {
            for item in self.modules.get(&module).into_iter().flatten() {
                let under = |name: String| public.iter().cloned().chain([name]).collect::<Path>();
                let names = match item {
                    Item::Use(item) if is_public(&item.vis) => {
                        leaves(&item.tree).into_iter().map(|leaf| (leaf.path, leaf.local)).collect()
                    }
                    item => match named(item) {
                        Some((_, visibility, name)) if is_public(visibility) => {
                            vec![(vec!["self".to_owned(), name.clone()], name)]
                        }
                        _ => Vec::new(),
                    },
                };
                for (path, name) in names {
                    let (public, target) = (under(name), self.defined(&module, &path));
                    let Some(target) = target else {
                        lines.insert(format!("{} = {}", public.join("::"), path.join("::")));
                        continue;
                    };
                    if matches!(self.items.get(&target), Some(Item::Mod(_))) {
                        queue.push((target, public));
                    } else if let Some(first) = found.get(&target) {
                        // Two crates of the library may export an item under the same path.
                        if *first == public {
                            continue;
                        }
                        lines.insert(format!("{} = {}", public.join("::"), first.join("::")));
                    } else {
                        found.insert(target, public);
                    }
                }
            }
        }
        found
    }

    fn list(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        let public = self.public(&mut lines);
        for (path, name) in &public {
            declare(&self.items[path], &name.join("::"), &mut lines);
        }
        for (module, items) in &self.modules {
            for item in items {
                if let Item::Impl(item) = item {
                    self.implement(module, item, &public, &mut lines);
                }
            }
        }
        lines
    }

    /// The lines of an `impl` for a public type.
    fn implement(
        &self,
        module: &[String],
        item: &syn::ItemImpl,
        public: &BTreeMap<Path, Path>,
        lines: &mut BTreeSet<String>,
    ) {
        let defined = self.defined(module, &[name_of(&item.self_ty)]);
        let Some(name) = defined.and_then(|path| public.get(&path)) else { return };
        let (name, generics) = (name.join("::"), &item.generics);
        let (whole, bounds) = (&item.self_ty, &generics.where_clause);
        if let Some((path, ..)) = &item.trait_ {
            let segments: Path = path.segments.iter().map(|s| s.ident.to_string()).collect();
            let ours = self.defined(module, &segments);
            if ours.is_none_or(|ours| public.contains_key(&ours)) {
                let cfg = attributes(&item.attrs);
                lines.insert(format!(
                    "{name}: {cfg}{}",
                    text(quote!(impl #generics #path for #whole #bounds))
                ));
            }
            return;
        }
        for item in &item.items {
            match item {
                ImplItem::Fn(f) if is_public(&f.vis) => {
                    let of = text(quote!(impl #generics #whole #bounds));
                    let attributes = attributes(&f.attrs);
                    let line =
                        format!("{name}::{} [{of}] {attributes}{}", f.sig.ident, text(&f.sig));
                    lines.insert(line);
                }
                ImplItem::Const(c) if is_public(&c.vis) => {
                    lines.insert(format!("{name}::{} const {}", c.ident, text(&c.ty)));
                }
                _ => {}
            }
        }
    }
}

/// The fields of a variant.
fn fields(of: &Fields) -> String {
    let field = |field: &syn::Field| match &field.ident {
        Some(name) => format!("{name}: {}", text(&field.ty)),
        None => text(&field.ty),
    };
    let all: Vec<String> = of.iter().map(field).collect();
    match of {
        Fields::Unit => String::new(),
        Fields::Unnamed(_) => format!("({})", all.join(", ")),
        Fields::Named(_) => format!(" {{ {} }}", all.join(", ")),
    }
}

/// The lines of an item itself.
fn declare(item: &Item, name: &str, lines: &mut BTreeSet<String>) {
    let front = named(item).map(|(of, ..)| attributes(of)).unwrap_or_default();
    let mut line = |rest: String| {
        lines.insert(rest);
    };
    for of in named(item).map(|(of, ..)| derived(of)).unwrap_or_default() {
        line(format!("{name}: derive {of}"));
    }
    match item {
        Item::Const(i) => line(format!("{name} {front}const {}", text(&i.ty))),
        Item::Static(i) => line(format!("{name} {front}static {}", text(&i.ty))),
        Item::Fn(i) => line(format!("{name} {front}{}", text(&i.sig))),
        Item::Type(i) => line(format!("{name} {front}type = {}", text(&i.ty))),
        Item::Struct(i) => {
            for (at, field) in i.fields.iter().enumerate().filter(|(_, f)| is_public(&f.vis)) {
                let called = field.ident.as_ref().map_or(at.to_string(), ToString::to_string);
                line(format!("{name}.{called}: {}", text(&field.ty)));
            }
            let (generics, bounds) = (&i.generics, &i.generics.where_clause);
            line(format!("{name} {front}struct{}", text(quote!(#generics #bounds))));
        }
        Item::Enum(i) => {
            for variant in &i.variants {
                line(format!("{name}::{}{}", variant.ident, fields(&variant.fields)));
            }
            line(format!("{name} {front}enum{}", text(&i.generics)));
        }
        Item::Trait(i) => {
            for item in &i.items {
                line(match item {
                    TraitItem::Fn(f) => {
                        let provided = if f.default.is_some() { "provided " } else { "" };
                        format!(
                            "{name}::{} {}{provided}{}",
                            f.sig.ident,
                            attributes(&f.attrs),
                            text(&f.sig)
                        )
                    }
                    TraitItem::Type(t) => format!("{name}::{} type: {}", t.ident, text(&t.bounds)),
                    TraitItem::Const(c) => format!("{name}::{} const {}", c.ident, text(&c.ty)),
                    other => format!("{name} {}", text(other)),
                });
            }
            let (generics, above) = (&i.generics, &i.supertraits);
            let colon = if above.is_empty() { "" } else { ": " };
            line(format!("{name} {front}trait{}{colon}{}", text(generics), text(above)));
        }
        _ => {}
    }
}

#[test]
fn the_facade_exports_everything_in_the_root_of_the_core() {
    with_parsed_code(|| {
        let facade = &library("couplet")[0];
        let core = library("couplet-core");
        let root = core.iter().find(|file| file.module.is_empty()).expect("its lib.rs");
        let missing = root.syntax.items.iter().flat_map(|item| match item {
            Item::Use(item) if is_public(&item.vis) => {
                leaves(&item.tree).into_iter().map(|leaf| leaf.local).collect()
            }
            Item::Mod(item) if is_public(&item.vis) && item.ident != "hooks" => {
                vec![item.ident.to_string()]
            }
            _ => Vec::new(),
        });
        let missing: Vec<_> = missing.filter(|name| !facade.imported.contains_key(name)).collect();
        let all =
            facade.mentions.iter().filter(|mention| mention.path.ends_with(&["*".to_owned()]));
        assert_eq!(all.count(), 0, "a glob would export the hooks too");
        assert_none(&missing, "crates/couplet/src/lib.rs exports what the core's root does");
    });
}

#[test]
fn each_kind_of_public_item_is_found_and_nothing_private() {
    let files = [
        Code::of("lib.rs", "mod room; pub mod open; pub use room::{Seen, Shape as Form}; pub use bytes::Bytes; pub use open::Twice;"),
        Code::of(
            "room/mod.rs",
            "mod inner; pub use inner::Seen; pub(crate) use inner::Hidden; #[derive(Debug, Eq)] pub enum Shape { A, B(u8) }
             impl Shape { pub fn area(&self) -> u8 { 0 } fn secret(&self) {} }
             impl crate::open::Open for Shape {} impl inner::Hidden for Shape {} impl Clone for Shape {}",
        ),
        Code::of(
            "room/inner.rs",
            "#[non_exhaustive] pub struct Seen { pub field: Vec<u8>, own: u8 } pub trait Hidden {} pub struct Unseen;
             impl Unseen { pub fn f(&self) {} }",
        ),
        Code::of("open.rs", "pub trait Open: Clone { fn must(&self); fn may(&mut self) {} } pub struct Twice(pub u8); pub fn free(n: &[u8]) {}"),
    ];
    let lines: Vec<String> = Crate::of(&files).list().into_iter().collect();
    assert_eq!(
        lines,
        [
            "Bytes = bytes::Bytes",
            "Form enum",
            "Form: derive Debug",
            "Form: derive Eq",
            "Form: impl Clone for Shape",
            "Form: impl crate::open::Open for Shape",
            "Form::A",
            "Form::B(u8)",
            "Form::area [impl Shape] fn area(&self) -> u8",
            "Seen #[non_exhaustive] struct",
            "Seen.field: Vec<u8>",
            "Twice struct",
            "Twice.0: u8",
            "open::Open trait: Clone",
            "open::Open::may provided fn may(&mut self)",
            "open::Open::must fn must(&self)",
            "open::Twice = Twice",
            "open::free fn free(n: &[u8])",
        ]
    );
}
