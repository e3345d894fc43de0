//! Law 9: every queue has a bound, or a sentence that says why not.
//!
//! Above every field and static whose type contains a collection or one end of a channel stands
//! `// Bound: …`, or `// Unbounded: …` for one that grows only at the request of its own user. Texts
//! count if they grow, and so do collections that a closure has captured.

use std::collections::BTreeSet;

use proc_macro2::Span;
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::{Code, assert_none, is_for_tests, library, line};

/// Types that grow.
const COLLECTIONS: [&str; 11] = [
    "BTreeMap",
    "BTreeSet",
    "BinaryHeap",
    "BytesMut",
    "HashMap",
    "HashSet",
    "LinkedList",
    "Slab",
    "Slots",
    "Vec",
    "VecDeque",
];

/// Types that may grow: their fields count if something grows them.
const TEXTS: [&str; 3] = ["OsString", "PathBuf", "String"];

/// What makes a collection grow.
const GROWS: [&str; 14] = [
    "&mut",
    "+=",
    "append",
    "entry",
    "extend",
    "extend_from_slice",
    "insert",
    "insert_str",
    "push",
    "push_back",
    "push_front",
    "push_str",
    "write!",
    "write_str",
];

/// The ends of channels; only where their full path names a channel's module.
const CHANNELS: [&str; 5] =
    ["Receiver", "Sender", "SyncSender", "UnboundedReceiver", "UnboundedSender"];

/// Methods that grow a captured collection; `insert` and `entry` also belong to tables with keys of
/// their own.
const ADDS: [&str; 8] = [
    "append",
    "extend",
    "extend_from_slice",
    "insert",
    "push",
    "push_back",
    "push_front",
    "push_str",
];

/// The fields, statics and closures of a file that hold a collection.
struct Queues<'a> {
    file: &'a Code,
    lines: Vec<&'a str>,
    /// The enclosing modules and types.
    around: Vec<String>,
    /// Type aliases of the crate that contain a collection.
    aliases: BTreeSet<String>,
    /// The identifiers that something in the module grows.
    grown: &'a BTreeSet<String>,
    /// Names, lines, and whether a comment has a bound.
    found: Vec<(String, usize, bool)>,
}

impl<'a> Queues<'a> {
    fn of(file: &'a Code, grown: &'a BTreeSet<String>, aliases: &BTreeSet<String>) -> Queues<'a> {
        let (around, aliases) = (file.module.clone(), aliases.clone());
        let lines = file.text.lines().collect();
        let mut queues = Queues { file, lines, around, aliases, grown, found: Vec::new() };
        queues.visit_file(&file.syntax);
        queues
    }

    /// Those of some files without a bound, and the number of all.
    fn unbounded(files: &[Code]) -> (Vec<String>, usize) {
        // Twice: an alias may follow its use, or live in another file.
        let mut aliases = BTreeSet::new();
        for file in files {
            aliases = Queues::of(file, &BTreeSet::new(), &aliases).aliases;
        }
        let (mut broken, mut all) = (Vec::new(), 0);
        for file in files {
            let grown = grown_below(files, &file.module);
            let found = Queues::of(file, &grown, &aliases).found;
            all += found.len();
            let unbounded = found.into_iter().filter(|(.., has_bound)| !has_bound);
            broken.extend(unbounded.map(|(name, line, _)| format!("{}:{line} {name}", file.path)));
        }
        (broken, all)
    }

    /// Whether the comment above a line has a bound of at least three words.
    fn has_bound(&self, line: usize) -> bool {
        let above = self.lines[..line - 1].iter().rev().map(|line| line.trim_start());
        let above = above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
        let comments: Vec<_> = above.filter_map(|line| line.strip_prefix("// ")).collect();
        let text = comments.into_iter().rev().collect::<Vec<_>>().join(" ");
        let bound = text.rsplit_once("ounded: ").or_else(|| text.rsplit_once("Bound: "));
        bound.is_some_and(|(_, bound)| bound.split_whitespace().count() >= 3)
    }

    fn find(&mut self, name: &str, line: usize) {
        let name = [&self.around.join("::"), name].join(".");
        self.found.push((name, line, self.has_bound(line)));
    }

    fn is_collection(&self, path: &syn::Path, is_grown: bool) -> bool {
        let path: Vec<String> = path.segments.iter().map(|name| name.ident.to_string()).collect();
        let meaning = self.file.meaning(&path);
        let last = meaning.last().map_or("", String::as_str);
        let is_channel = CHANNELS.contains(&last)
            && meaning.iter().any(|name| ["mpsc", "mpmc", "broadcast"].contains(&name.as_str()));
        let is_alias = path.len() == 1 && self.aliases.contains(&path[0]);
        COLLECTIONS.contains(&last) || is_channel || is_alias || is_grown && TEXTS.contains(&last)
    }

    fn holds_one(&self, ty: &syn::Type, is_grown: bool) -> bool {
        let mut look = Look { queues: self, is_grown, found: false };
        look.visit_type(ty);
        look.found
    }

    fn look_at(&mut self, name: &str, ty: &syn::Type, at: usize) {
        if self.holds_one(ty, self.grown.contains(name)) {
            self.find(name, at);
        }
    }

    fn look_at_fields(&mut self, fields: &syn::Fields) {
        for (number, field) in fields.iter().enumerate() {
            let name = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            let span = field.ident.as_ref().map_or_else(|| field.ty.span(), syn::Ident::span);
            self.look_at(&name, &field.ty, line(span));
        }
    }

    /// Finds additions to captured collections in a closure that may be kept.
    fn look_at_capture(&mut self, body: Captured) {
        for (name, at) in body.adds {
            let has_bound = self.has_bound(body.line) || self.has_bound(at);
            if !body.own.contains(&name) && !has_bound {
                self.find(&format!("{name} in a closure"), at);
            }
        }
    }
}

/// The identifiers that a module and those below it grow: they see its private fields.
fn grown_below(files: &[Code], module: &[String]) -> BTreeSet<String> {
    let files = files.iter().filter(|file| file.module.starts_with(module));
    let calls = files.flat_map(|file| &file.calls);
    // A local alone is no field.
    let grows = calls.filter(|call| GROWS.contains(&call.name.as_str()) && call.receiver.len() > 1);
    grows.flat_map(|call| call.receiver.clone()).collect()
}

/// The body of a closure: its own locals, and the locals that it adds to.
struct Captured {
    line: usize,
    own: BTreeSet<String>,
    adds: Vec<(String, usize)>,
}

impl Captured {
    fn at(span: Span) -> Captured {
        Captured { line: line(span), own: BTreeSet::new(), adds: Vec::new() }
    }
}

/// The local behind an expression without fields, such as `all.borrow_mut()`.
fn local(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        syn::Expr::MethodCall(call) => local(&call.receiver),
        syn::Expr::Paren(inner) => local(&inner.expr),
        syn::Expr::Reference(inner) => local(&inner.expr),
        syn::Expr::Try(inner) => local(&inner.expr),
        syn::Expr::Unary(inner) => local(&inner.expr),
        _ => None,
    }
}

impl Visit<'_> for Captured {
    fn visit_pat_ident(&mut self, name: &syn::PatIdent) {
        self.own.insert(name.ident.to_string());
        visit::visit_pat_ident(self, name);
    }

    fn visit_expr_method_call(&mut self, call: &syn::ExprMethodCall) {
        if ADDS.iter().any(|add| call.method == add)
            && let Some(name) = local(&call.receiver)
            && name != "self"
        {
            self.adds.push((name, line(call.method.span())));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_binary(&mut self, expression: &syn::ExprBinary) {
        // `all += "more"`, but not `count += 1`.
        if let syn::BinOp::AddAssign(token) = &expression.op
            && matches!(
                &*expression.right,
                syn::Expr::Reference(_)
                    | syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(_), .. })
            )
            && let Some(name) = local(&expression.left)
        {
            self.adds.push((name, line(token.span())));
        }
        visit::visit_expr_binary(self, expression);
    }
}

/// Looks for a collection in a type.
struct Look<'a> {
    queues: &'a Queues<'a>,
    is_grown: bool,
    found: bool,
}

impl Visit<'_> for Look<'_> {
    fn visit_path(&mut self, path: &syn::Path) {
        self.found |= self.queues.is_collection(path, self.is_grown);
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
        if self.holds_one(&item.ty, false) {
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

    fn visit_macro(&mut self, call: &syn::Macro) {
        if call.path.segments.last().is_some_and(|name| name.ident == "thread_local") {
            let statics: Statics = call.parse_body().expect("thread_local! of statics");
            for (name, ty) in statics.0 {
                self.look_at(&name.to_string(), &ty, line(name.span()));
            }
        }
        visit::visit_macro(self, call);
    }

    fn visit_expr_closure(&mut self, closure: &syn::ExprClosure) {
        if closure.capture.is_some() {
            let mut body = Captured::at(closure.span());
            body.visit_expr_closure(closure);
            self.look_at_capture(body);
        }
        visit::visit_expr_closure(self, closure);
    }

    fn visit_expr_async(&mut self, block: &syn::ExprAsync) {
        if block.capture.is_some() {
            let mut body = Captured::at(block.async_token.span());
            body.visit_expr_async(block);
            self.look_at_capture(body);
        }
        visit::visit_expr_async(self, block);
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

#[test]
fn every_queue_has_a_bound_or_a_sentence() {
    let crates = ["couplet", "couplet-os", "couplet-cli"];
    let (broken, all): (Vec<_>, Vec<_>) =
        crates.into_iter().map(|name| Queues::unbounded(&library(name))).unzip();
    assert!(all.iter().sum::<usize>() > 200, "{all:?} queues were found");
    assert_none(
        &broken.concat(),
        "law 9: every queue has a bound, or a sentence that says why not. Bound it, and say so above it: \
         `// Bound: …`, or `// Unbounded: …` if only its own user makes it grow",
    );
}

#[test]
fn each_form_of_a_queue_is_found() {
    let found = |text: &str| Queues::unbounded(&[Code::of("reactor/turn.rs", text)]).0;
    for (text, name) in [
        ("struct S { all: RefCell<VecDeque<u8>> }", "S.all"),
        ("struct S(Option<Box<[Vec<u8>]>>);", "S.0"),
        ("struct S { all: All } type All = Rc<std::collections::BTreeMap<u8, u8>>;", "S.all"),
        ("use std::collections::VecDeque as Line; struct S { all: Line<u8> }", "S.all"),
        ("fn f() { use std::collections::VecDeque as Line; struct S { all: Line<u8> } }", "S.all"),
        ("use std::sync::mpsc::Sender; struct S { out: Sender<u8> }", "S.out"),
        ("enum E { A { all: Vec<u8> } }", "E::A.all"),
        ("thread_local! { static ALL: Cell<Vec<u8>> = const { Cell::new(Vec::new()) }; }", "ALL"),
        ("fn f() { thread_local! { static ALL: Cell<Vec<u8>> = Cell::default(); } }", "ALL"),
        ("fn f() { static ALL: Mutex<Vec<u8>> = Mutex::new(Vec::new()); }", "ALL"),
        ("fn f() { struct S { all: Slab<u8> } }", "S.all"),
        ("mod inner { static ALL: Mutex<Vec<u8>> = Mutex::new(Vec::new()); }", "ALL"),
        ("struct S { all: BytesMut }", "S.all"),
        // Comments without a sentence, or of another field.
        ("struct S {\n // Bound: small\n all: Vec<u8>\n}", "S.all"),
        ("struct S {\n // A queue of bytes.\n all: Vec<u8>\n}", "S.all"),
        ("struct S {\n // Bound: three of them\n n: u8,\n all: Vec<u8>\n}", "S.all"),
        // Texts.
        (
            "struct S { all: String } fn f(s: &mut S) { s.all.push_str(x); s.all.drain(..1); }",
            "S.all",
        ),
        ("struct S { all: String } fn f(s: &mut S) { s.all += x; }", "S.all"),
        (
            "struct S { all: RefCell<String> } fn f(s: &S) { write!(s.all.borrow_mut(), x); }",
            "S.all",
        ),
        ("struct S { all: String } fn f(s: &mut S) { g(&mut s.all); }", "S.all"),
        // Captured.
        ("fn f() { let mut all = Vec::new(); keep(move |x| all.push(x)); }", "all in a closure"),
        (
            "fn f() { let all = Rc::new(x); keep(move |x| all.borrow_mut().push_back(x)); }",
            "all in a closure",
        ),
        ("fn f(mut m: BTreeMap<u8, u8>) { keep(move |x| { m.insert(x, x); }) }", "m in a closure"),
        ("fn f(mut s: String) { keep(move |x| s.push_str(x)) }", "s in a closure"),
        ("fn f(mut s: String) { keep(move |x| s += \"more\") }", "s in a closure"),
        (
            "fn f(mut v: Vec<u8>) { spawn(async move { loop { v.extend(next().await) } }) }",
            "v in a closure",
        ),
    ] {
        let found = found(text);
        assert!(found.len() == 1 && found[0].ends_with(name), "{text}: {found:?}");
    }
    for text in [
        "struct S<'a> { f: Box<dyn Fn(Vec<u8>)>, r: &'a [u8], d: Box<dyn Receiver> }",
        "struct S {\n /// All.\n // Bound: three of\n // them\n #[cfg(unix)]\n all: Vec<u8>\n}",
        "struct S {\n // Unbounded: one for each call\n all: Vec<u8>\n}",
        "struct S { name: String } fn f(s: &S) { s.name.len(); }",
        "fn f() { keep(move |x| { let mut all = Vec::new(); all.push(x); all }) }",
        "fn f(v: &mut Vec<u8>) { all.iter().for_each(|x| v.push(x)) }",
        "fn f() { let mut n = 0; keep(move |x| n += 1) }",
        "fn f(s: S) { keep(move |x| s.queue.push(x)) }",
    ] {
        assert_eq!(found(text), Vec::<String>::new(), "{text}");
    }
}
