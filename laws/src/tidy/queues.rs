//! Law 9: every queue has a bound, or a sentence that says why not.
//!
//! `queues.txt` has a line for every field and static whose type contains a collection or one end
//! of a channel. A field without a line fails the test, and so does a line without a field.

use std::collections::{BTreeMap, BTreeSet};

use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::{Code, assert_none, is_for_tests, library, line, read};

const TABLE: &str = "laws/src/tidy/queues.txt";

/// Types that grow.
const COLLECTIONS: [&str; 10] = [
    "BTreeMap",
    "BTreeSet",
    "BinaryHeap",
    "HashMap",
    "HashSet",
    "LinkedList",
    "Slab",
    "Slots",
    "Vec",
    "VecDeque",
];

/// The ends of channels; only where their full path names a channel's module.
const CHANNELS: [&str; 5] =
    ["Receiver", "Sender", "SyncSender", "UnboundedReceiver", "UnboundedSender"];

/// The fields of a file that hold a collection.
struct Queues<'a> {
    file: &'a Code,
    /// `crate::module::Type`.
    around: Vec<String>,
    /// Type aliases of the crate that contain a collection.
    aliases: BTreeSet<String>,
    found: BTreeMap<String, usize>,
}

impl<'a> Queues<'a> {
    fn of(file: &'a Code, crate_name: &str, aliases: &BTreeSet<String>) -> Queues<'a> {
        let around = std::iter::once(crate_name.to_owned()).chain(file.module.clone()).collect();
        let aliases = aliases.clone();
        let mut queues = Queues { file, around, aliases, found: BTreeMap::new() };
        queues.visit_file(&file.syntax);
        queues
    }

    /// The fields of a crate with their locations.
    fn of_crate(name: &str) -> BTreeMap<String, String> {
        let (files, name) = (library(name), name.replace('-', "_"));
        // Twice: an alias may follow its use, or live in another file.
        let mut aliases = BTreeSet::new();
        for file in &files {
            aliases = Queues::of(file, &name, &aliases).aliases;
        }
        let mut fields = BTreeMap::new();
        for file in &files {
            let found = Queues::of(file, &name, &aliases).found;
            fields.extend(found.into_iter().map(|(f, line)| (f, format!("{}:{line}", file.path))));
        }
        fields
    }

    fn is_collection(&self, path: &syn::Path) -> bool {
        let path: Vec<String> = path.segments.iter().map(|name| name.ident.to_string()).collect();
        let meaning = self.file.meaning(&path);
        let last = meaning.last().map_or("", String::as_str);
        let is_channel = CHANNELS.contains(&last)
            && meaning.iter().any(|name| ["mpsc", "mpmc", "broadcast"].contains(&name.as_str()));
        let is_alias = path.len() == 1 && self.aliases.contains(&path[0]);
        COLLECTIONS.contains(&last) || is_channel || is_alias
    }

    fn holds_one(&self, ty: &syn::Type) -> bool {
        let mut look = Look { queues: self, found: false };
        look.visit_type(ty);
        look.found
    }

    fn look_at(&mut self, name: &str, ty: &syn::Type, at: usize) {
        if self.holds_one(ty) {
            self.found.insert(format!("{}.{name}", self.around.join("::")), at);
        }
    }

    fn look_at_fields(&mut self, fields: &syn::Fields) {
        for (number, field) in fields.iter().enumerate() {
            let name = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            self.look_at(
                &name,
                &field.ty,
                line(field.ident.as_ref().map_or_else(|| field.span(), syn::Ident::span)),
            );
        }
    }
}

/// Looks for a collection in a type.
struct Look<'a> {
    queues: &'a Queues<'a>,
    found: bool,
}

impl Visit<'_> for Look<'_> {
    fn visit_path(&mut self, path: &syn::Path) {
        self.found |= self.queues.is_collection(path);
        visit::visit_path(self, path);
    }

    // Function signatures store nothing.
    fn visit_parenthesized_generic_arguments(&mut self, _: &syn::ParenthesizedGenericArguments) {}
    fn visit_type_fn_ptr(&mut self, _: &syn::TypeFnPtr) {}
}

impl Visit<'_> for Queues<'_> {
    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.around.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.around.pop();
    }

    fn visit_item_type(&mut self, item: &syn::ItemType) {
        if self.holds_one(&item.ty) {
            self.aliases.insert(item.ident.to_string());
        }
    }

    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.around.push(item.ident.to_string());
        self.look_at_fields(&item.fields);
        self.around.pop();
    }

    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        for variant in &item.variants {
            self.around.extend([item.ident.to_string(), variant.ident.to_string()]);
            self.look_at_fields(&variant.fields);
            self.around.truncate(self.around.len() - 2);
        }
    }

    fn visit_item_static(&mut self, item: &syn::ItemStatic) {
        self.look_at(&item.ident.to_string(), &item.ty, line(item.span()));
    }

    fn visit_item_macro(&mut self, item: &syn::ItemMacro) {
        if item.mac.path.is_ident("thread_local") {
            let statics: Statics = item.mac.parse_body().expect("thread_local! of statics");
            for (name, ty) in statics.0 {
                self.look_at(&name.to_string(), &ty, line(name.span()));
            }
        }
    }
}

/// The contents of `thread_local!`.
struct Statics(Vec<(syn::Ident, syn::Type)>);

impl Parse for Statics {
    fn parse(input: ParseStream<'_>) -> syn::Result<Statics> {
        let mut found = Vec::new();
        while !input.is_empty() {
            input.call(syn::Attribute::parse_outer)?;
            input.parse::<syn::Visibility>()?;
            input.parse::<syn::Token![static]>()?;
            let name = input.parse()?;
            input.parse::<syn::Token![:]>()?;
            found.push((name, input.parse()?));
            input.parse::<syn::Token![=]>()?;
            input.parse::<syn::Expr>()?.to_token_stream();
            input.parse::<Option<syn::Token![;]>>()?;
        }
        Ok(Statics(found))
    }
}

/// The lines of the table: the field, the bound, and the number of the line.
fn rows(table: &str) -> Vec<(&str, &str, usize)> {
    let lines = (1..).zip(table.lines());
    let rows = lines.filter(|(_, row)| !row.is_empty() && !row.starts_with('#'));
    rows.map(|(number, row)| {
        let (field, bound) = row.split_once(" | ").unwrap_or((row, ""));
        (field.trim(), bound.trim(), number)
    })
    .collect()
}

#[test]
fn every_queue_has_a_bound_or_a_sentence() {
    let crates = ["couplet", "couplet-os", "couplet-cli"];
    let mut fields: BTreeMap<_, _> = crates.into_iter().flat_map(Queues::of_crate).collect();
    let table = read(TABLE);
    let mut broken = Vec::new();
    let mut before = "";
    for (field, bound, number) in rows(&table) {
        if fields.remove(field).is_none() {
            broken.push(format!("{TABLE}:{number}: {field} does not exist; remove the line"));
        }
        if bound.split_whitespace().count() < 3 {
            broken.push(format!("{TABLE}:{number}: {field} has no bound or sentence"));
        }
        if field < before {
            broken.push(format!("{TABLE}:{number}: {field} belongs before {before}"));
        }
        before = field;
    }
    for (field, place) in fields {
        broken.push(format!("{place}: {field} has no line in queues.txt"));
    }
    assert_none(
        &broken,
        &format!(
            "law 9: every queue has a bound, or a sentence that says why not. Bound it, and add a \
             line `field | bound` to {TABLE}"
        ),
    );
}

#[test]
fn each_form_of_a_queue_is_found() {
    let found = |text: &str| {
        let file = Code::of("reactor/turn.rs", text);
        let aliases = Queues::of(&file, "couplet", &BTreeSet::new()).aliases;
        Queues::of(&file, "couplet", &aliases).found.into_keys().collect::<Vec<_>>()
    };
    for (text, name) in [
        ("struct S { all: RefCell<VecDeque<u8>> }", "S.all"),
        ("struct S(Option<Box<[Vec<u8>]>>);", "S.0"),
        ("struct S { all: All } type All = Rc<std::collections::BTreeMap<u8, u8>>;", "S.all"),
        ("use std::collections::VecDeque as Line; struct S { all: Line<u8> }", "S.all"),
        ("use std::sync::mpsc::Sender; struct S { out: Sender<u8> }", "S.out"),
        ("enum E { A { all: Vec<u8> } }", "E::A.all"),
        ("thread_local! { static ALL: Cell<Vec<u8>> = const { Cell::new(Vec::new()) }; }", "ALL"),
        ("fn f() { struct S { all: Slab<u8> } }", "S.all"),
        ("mod inner { static ALL: Mutex<Vec<u8>> = Mutex::new(Vec::new()); }", "ALL"),
    ] {
        let found = found(text);
        assert!(found.len() == 1 && found[0].ends_with(name), "{text}: {found:?}");
    }
    let none = "struct S<'a> { f: Box<dyn Fn(Vec<u8>)>, r: &'a [u8], d: Box<dyn Receiver> }";
    assert_eq!(found(none), Vec::<String>::new());
}
