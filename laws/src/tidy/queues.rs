//! Law 9: every queue has a bound, or a sentence that says why not.
//!
//! Every field and static whose type contains a collection or one end of a channel has a comment
//! `// Bound: …`, or `// Unbounded: …` if only its user's requests make it grow. Texts count if
//! they grow, and so do collections that a closure has captured.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::modules::Modules;
use super::source::{
    Call, Code, PROGRAMS, absolute, assert_none, is_for_tests, last_of, lengthens, library, line,
    name_of, with_parsed_code,
};

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
const TEXTS: [&str; 4] = ["Cow", "OsString", "PathBuf", "String"];

/// Types that don't grow: their fields count if something replaces them by longer ones.
const REPLACED: [&str; 2] = ["Bytes", "str"];

/// Types of other crates that don't grow; any other type counts as a queue, like `COLLECTIONS`.
const FIXED: &[&str] = &[
    "clap_complete::Shell",
    // Their own fields are checked.
    "couplet_command",
    "couplet_os",
    "couplet_testkit::bench::spread::Spread",
    "http::HeaderName",
    "http::HeaderValue",
    "http::Method",
    "http::Request",
    "http::Response",
    "http::StatusCode",
    "http::Uri",
    "http::Version",
    "http::header::HeaderName",
    "http::header::HeaderValue",
    "http_body_util::Full",
    "hyper::Error",
    "hyper::body::Incoming",
    "hyper::server::conn::http1::Builder",
    "hyper::upgrade::Upgraded",
    "indicatif::ProgressBar",
    "libc",
    "mio",
    "rustix",
    "rustls::ClientConfig",
    "rustls::Error",
    "rustls::KeyLogFile",
    "rustls::RootCertStore",
    "rustls::ServerConfig",
    "rustls::crypto",
    "rustls::pki_types::ServerName",
    "rustls::sign::CertifiedKey",
    "rustls::unbuffered::InsufficientSizeError",
    "socket2::Domain",
    "socket2::Socket",
    "std::any",
    "std::cell",
    "std::cmp::Reverse",
    "std::convert::Infallible",
    "std::error::Error",
    "std::ffi::CStr",
    "std::ffi::c_void",
    "std::fs",
    "std::hash::RandomState",
    "std::io::Error",
    "std::io::ErrorKind",
    "std::io::PipeReader",
    "std::io::PipeWriter",
    "std::io::Read",
    "std::io::Result",
    "std::marker",
    "std::mem::ManuallyDrop",
    "std::net",
    "std::num",
    "std::ops::Range",
    "std::os::fd",
    "std::panic::Location",
    "std::path::Path",
    "std::pin::Pin",
    "std::process::Child",
    "std::ptr::NonNull",
    "std::rc",
    "std::result::Result",
    "std::str::Utf8Error",
    "std::sync::Arc",
    "std::sync::Condvar",
    "std::sync::LazyLock",
    "std::sync::Mutex",
    "std::sync::OnceLock",
    "std::sync::RwLock",
    "std::sync::Weak",
    "std::sync::atomic",
    "std::task",
    "std::thread",
    "std::time",
    "tokio::io::unix::AsyncFd",
    "tokio::runtime",
    "tokio::time",
    "tracing::Dispatch",
    "tracing_subscriber::filter::Targets",
    "tungstenite::Utf8Bytes",
    "tungstenite::protocol::Role",
];

/// Operations that grow a collection. `=` stands for an assignment of the old contents with more.
const GROWS: [&str; 23] = [
    "&mut",
    "+=",
    "=",
    "append",
    "entry",
    "extend",
    "extend_from_slice",
    "extend_from_within",
    "insert",
    "insert_str",
    "push",
    "push_back",
    "push_front",
    "push_str",
    "replace_range",
    "resize",
    "resize_with",
    "splice",
    "to_mut",
    "write!",
    "write_char",
    "write_fmt",
    "write_str",
];

/// Methods that grow a captured collection; tables with their own keys have `insert` and `entry`
/// too.
const ADDS: [&str; 16] = [
    "append",
    "extend",
    "extend_from_slice",
    "extend_from_within",
    "insert",
    "insert_str",
    "push",
    "push_back",
    "push_front",
    "push_str",
    "replace_range",
    "resize",
    "resize_with",
    "splice",
    "write_char",
    "write_str",
];

/// The fields, statics and closures of a file that hold a collection.
struct Queues<'a> {
    file: &'a Code,
    modules: &'a Modules,
    lines: Vec<&'a str>,
    /// The enclosing modules and types.
    around: Vec<String>,
    /// The enclosing modules.
    module: Vec<String>,
    /// Type aliases of the crate that contain a collection.
    aliases: BTreeSet<String>,
    /// The identifiers that something in the module grows.
    grown: &'a BTreeSet<String>,
    /// Names, lines, and whether a comment has a bound.
    found: Vec<(String, usize, bool)>,
}

impl<'a> Queues<'a> {
    fn of(
        file: &'a Code,
        modules: &'a Modules,
        grown: &'a BTreeSet<String>,
        aliases: &BTreeSet<String>,
    ) -> Queues<'a> {
        let (around, aliases) = (file.module.clone(), aliases.clone());
        let (lines, module) = (file.text.lines().collect(), file.module.clone());
        let found = Vec::new();
        let mut queues = Queues { file, modules, lines, around, module, aliases, grown, found };
        queues.visit_file(&file.syntax);
        queues
    }

    /// The queues of some files without a bound, and the number of all queues.
    fn unbounded(files: &[Code]) -> (Vec<String>, usize) {
        let modules = Modules::of(files);
        // Twice: an alias may follow its use, or live in another file.
        let mut aliases = BTreeSet::new();
        for file in files {
            aliases = Queues::of(file, &modules, &BTreeSet::new(), &aliases).aliases;
        }
        let (mut broken, mut all) = (Vec::new(), 0);
        for file in files {
            let grown = grown_below(files, &file.module);
            let found = Queues::of(file, &modules, &grown, &aliases).found;
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

    fn is_collection(&self, path: &syn::Path, grown: Grown) -> bool {
        let path: Vec<String> = path.segments.iter().map(|name| name.ident.to_string()).collect();
        let last = path.last().map_or("", String::as_str).to_owned();
        let last = &*last;
        let is_alias = self.aliases.contains(last) && !["Item", "Output"].contains(&last);
        let is_one = |last: &str| {
            COLLECTIONS.contains(&last)
                || grown.is_changed && TEXTS.contains(&last)
                || grown.is_replaced && (TEXTS.contains(&last) || REPLACED.contains(&last))
        };
        let may_be = |last: &str| TEXTS.contains(&last) || REPLACED.contains(&last);
        let path = absolute(&self.file.at, &self.module, path.clone());
        let outside = self.modules.outside(self.file, &path);
        is_alias
            || is_one(last)
            || outside.iter().any(|path| {
                let last = path.last().map_or("", String::as_str);
                is_one(last) || !may_be(last) && !is_fixed(path)
            })
    }

    fn holds_one(&self, ty: &syn::Type, grown: Grown, owner: Option<&syn::Ident>) -> bool {
        let mut look = Look { queues: self, grown, owner, found: false };
        look.visit_type(ty);
        look.found
    }

    fn look_at(&mut self, name: &str, ty: &syn::Type, at: usize, owner: Option<&syn::Ident>) {
        if self.holds_one(ty, self.grown_as(&[name]), owner) {
            self.find(name, at);
        }
    }

    /// The fields of a type, or of its variant.
    fn look_at_fields(&mut self, fields: &syn::Fields, owner: &syn::Ident) {
        for (number, field) in fields.iter().enumerate() {
            let name = field.ident.as_ref().map_or_else(|| number.to_string(), ToString::to_string);
            let span = field.ident.as_ref().map_or_else(|| field.ty.span(), syn::Ident::span);
            let of = self.around.last().map(|of| format!("{of}.{name}")).unwrap_or_default();
            let grown = match &field.ident {
                Some(_) => self.grown_as(&[&of, &name]),
                None => self.grown_as(&[&of]),
            };
            if self.holds_one(&field.ty, grown, Some(owner)) {
                self.find(&name, line(span));
            }
        }
    }

    /// How something grows a place with one of these names.
    fn grown_as(&self, names: &[&str]) -> Grown {
        Grown {
            is_changed: names.iter().any(|&name| self.grown.contains(name)),
            is_replaced: names.iter().any(|name| self.grown.contains(&format!("={name}"))),
        }
    }

    /// A parameter's default is the type of a field.
    fn look_at_defaults(&mut self, generics: &syn::Generics) {
        for parameter in generics.type_params() {
            if let Some((_, ty)) = &parameter.default {
                self.look_at(&parameter.ident.to_string(), ty, line(parameter.span()), None);
            }
        }
    }

    /// Finds the fields and statics in the tokens of a macro.
    fn look_at_tokens(&mut self, tokens: TokenStream) {
        let is_collection = |token: &TokenTree| match token {
            TokenTree::Ident(name) => COLLECTIONS.iter().any(|one| name == one),
            _ => false,
        };
        // Between `struct` or `enum` and its fields, or in a static.
        let mut is_item = false;
        for token in tokens {
            match token {
                TokenTree::Ident(name)
                    if ["enum", "static", "struct"].iter().any(|k| name == k) =>
                {
                    is_item = true;
                }
                TokenTree::Punct(end) if [';', '='].contains(&end.as_char()) => is_item = false,
                TokenTree::Group(group) => {
                    let is_fields = is_item && group.delimiter() != Delimiter::Bracket;
                    if is_fields {
                        for token in
                            flat(group.stream()).iter().filter(|token| is_collection(token))
                        {
                            self.find("a field in a macro", line(token.span()));
                        }
                    }
                    is_item &= !is_fields;
                    self.look_at_tokens(group.stream());
                }
                token if is_item && is_collection(&token) => {
                    self.find("a static in a macro", line(token.span()));
                }
                _ => {}
            }
        }
    }

    /// Finds collections that grow in a loop that awaits: its function lives as long as an object.
    fn look_at_loops(&mut self, block: &syn::Block) {
        let mut loops = Loops(Vec::new());
        loops.visit_block(block);
        for body in loops.0 {
            for (name, at) in body.adds {
                let has_bound = self.has_bound(body.line) || self.has_bound(at);
                if !body.own.contains(&name) && name != "self" && !has_bound {
                    self.find(&format!("{name} in a loop that awaits"), at);
                }
            }
        }
    }

    /// Finds additions to captured collections in a closure that may be kept.
    fn look_at_capture(&mut self, body: Captured) {
        for (name, at) in body.adds {
            let has_bound = self.has_bound(body.line) || self.has_bound(at);
            if !body.own.contains(&name) && name != "self" && !has_bound {
                self.find(&format!("{name} in a closure"), at);
            }
        }
    }
}

/// True for a type of another crate that doesn't grow.
fn is_fixed(path: &[String]) -> bool {
    let path = path.join("::");
    let is = |fixed: &&str| {
        path.strip_prefix(*fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    FIXED.iter().any(is)
}

/// The identifiers that a module and those below it grow: they see its private fields.
fn grown_below(files: &[Code], module: &[String]) -> BTreeSet<String> {
    let files = files.iter().filter(|file| file.module.starts_with(module));
    let calls = files.flat_map(|file| &file.calls);
    // A bare local is not a field.
    let grows = calls.filter(|call| {
        let is_place = call.receiver.len() > 1 || call.field.is_some();
        GROWS.contains(&call.name.as_str()) && is_place
    });
    let name = |call: &Call| -> Vec<String> {
        let names = call.receiver.iter().chain(&call.field);
        names.map(|name| if call.name == "=" { format!("={name}") } else { name.clone() }).collect()
    };
    grows.flat_map(name).collect()
}

type Expressions = Punctuated<syn::Expr, syn::Token![,]>;

/// How a place grows.
#[derive(Clone, Copy, Default)]
struct Grown {
    is_changed: bool,
    is_replaced: bool,
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

    fn add(&mut self, place: &syn::Expr, at: Span) {
        if let Some(name) = local(place) {
            self.adds.push((name, line(at)));
        }
    }
}

/// The local behind an expression without named fields, such as `all.borrow_mut()` or `all.0`.
fn local(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Path(path) => path.path.get_ident().map(ToString::to_string),
        syn::Expr::Field(field) => match &field.member {
            syn::Member::Unnamed(_) => local(&field.base),
            syn::Member::Named(_) => None,
        },
        syn::Expr::Index(index) => local(&index.expr),
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
        if ADDS.iter().any(|add| call.method == add) {
            self.add(&call.receiver, call.method.span());
        }
        visit::visit_expr_method_call(self, call);
    }

    // `Vec::push(&mut all, x)`.
    fn visit_expr_call(&mut self, call: &syn::ExprCall) {
        if let (syn::Expr::Path(path), Some(place)) = (&*call.func, call.args.first())
            && path.path.segments.len() > 1
            && ADDS.contains(&&*last_of(&path.path))
        {
            self.add(place, path.span());
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        if matches!(&*last_of(&call.path), "write" | "writeln")
            && let Ok(list) = call.parse_body_with(Expressions::parse_terminated)
            && let Some(place) = list.first()
        {
            self.add(place, call.path.span());
        }
    }

    fn visit_expr_assign(&mut self, assignment: &syn::ExprAssign) {
        if lengthens(&assignment.left, &assignment.right) {
            self.add(&assignment.left, assignment.eq_token.span());
        }
        visit::visit_expr_assign(self, assignment);
    }

    fn visit_expr_binary(&mut self, expression: &syn::ExprBinary) {
        // `all += "more"`, but not `count += 1`.
        if let syn::BinOp::AddAssign(token) = &expression.op
            && matches!(
                &*expression.right,
                syn::Expr::Reference(_)
                    | syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(_), .. })
            )
        {
            self.add(&expression.left, token.span());
        }
        visit::visit_expr_binary(self, expression);
    }
}

/// The loops that await, in a function.
struct Loops(Vec<Captured>);

impl Loops {
    fn add(&mut self, span: Span, walk: impl Fn(&mut Captured)) {
        let mut body = Captured::at(span);
        walk(&mut body);
        self.0.push(body);
    }
}

fn awaits(block: &syn::Block) -> bool {
    struct Awaits(bool);
    impl Visit<'_> for Awaits {
        fn visit_expr_await(&mut self, _: &syn::ExprAwait) {
            self.0 = true;
        }
        fn visit_expr_async(&mut self, _: &syn::ExprAsync) {}
        fn visit_expr_closure(&mut self, _: &syn::ExprClosure) {}
    }
    let mut found = Awaits(false);
    found.visit_block(block);
    found.0
}

impl Visit<'_> for Loops {
    fn visit_expr_loop(&mut self, looping: &syn::ExprLoop) {
        if awaits(&looping.body) {
            self.add(looping.loop_token.span, |body| body.visit_expr_loop(looping));
        }
    }

    fn visit_expr_while(&mut self, looping: &syn::ExprWhile) {
        if awaits(&looping.body) || quote::quote!(#looping).to_string().contains(". await") {
            self.add(looping.while_token.span, |body| body.visit_expr_while(looping));
        }
    }
}

/// Looks for a collection in a type.
struct Look<'a> {
    queues: &'a Queues<'a>,
    grown: Grown,
    /// The type of the field: one that holds itself is a list.
    owner: Option<&'a syn::Ident>,
    found: bool,
}

impl Visit<'_> for Look<'_> {
    fn visit_path(&mut self, path: &syn::Path) {
        let last = last_of(path);
        let is_own = path.segments.len() == 1;
        self.found |= is_own && self.owner.is_some_and(|owner| *owner == last);
        self.found |= self.queues.is_collection(path, self.grown);
        if last != "Weak" && last != "PhantomData" {
            visit::visit_path(self, path);
        }
    }

    // `<Room as Kind>::Queue`.
    fn visit_type_path(&mut self, ty: &syn::TypePath) {
        self.visit_path(&ty.path);
    }

    // Borrowed texts don't grow, and borrowed objects belong to others.
    fn visit_type_reference(&mut self, reference: &syn::TypeReference) {
        let (grown, owner) = (self.grown, self.owner.take());
        self.grown.is_changed &= reference.mutability.is_some();
        self.grown.is_replaced = false;
        visit::visit_type_reference(self, reference);
        (self.grown, self.owner) = (grown, owner);
    }

    // Function signatures store nothing.
    fn visit_parenthesized_generic_arguments(&mut self, _: &syn::ParenthesizedGenericArguments) {}
    fn visit_type_fn_ptr(&mut self, _: &syn::TypeFnPtr) {}
}

/// All tokens, including the tokens in groups.
fn flat(tokens: TokenStream) -> Vec<TokenTree> {
    let flat = |token| match token {
        TokenTree::Group(group) => flat(group.stream()),
        token => vec![token],
    };
    tokens.into_iter().flat_map(flat).collect()
}

impl Visit<'_> for Queues<'_> {
    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        if is_for_tests(&item.attrs) {
            return;
        }
        self.around.push(item.ident.to_string());
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        self.around.pop();
    }

    fn visit_item_type(&mut self, item: &syn::ItemType) {
        if self.holds_one(&item.ty, Grown::default(), None) {
            self.aliases.insert(item.ident.to_string());
        }
    }

    fn visit_impl_item_type(&mut self, item: &syn::ImplItemType) {
        if self.holds_one(&item.ty, Grown::default(), None) {
            self.aliases.insert(item.ident.to_string());
        }
    }

    // `impl Sink for Vec<u8>`: the object itself grows.
    fn visit_item_impl(&mut self, item: &syn::ItemImpl) {
        if is_for_tests(&item.attrs) {
            return;
        }
        if self.holds_one(&item.self_ty, Grown { is_changed: true, is_replaced: true }, None)
            && (COLLECTIONS.iter().chain(&TEXTS)).any(|one| name_of(&item.self_ty) == *one)
        {
            let mut body = Captured::at(item.span());
            body.visit_item_impl(item);
            if body.adds.iter().any(|(name, _)| name == "self") {
                let name = format!("impl for {}", name_of(&item.self_ty));
                self.find(&name, line(item.impl_token.span()));
            }
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_struct(&mut self, item: &syn::ItemStruct) {
        self.around.push(item.ident.to_string());
        self.look_at_fields(&item.fields, &item.ident);
        self.look_at_defaults(&item.generics);
        self.around.pop();
    }

    fn visit_item_fn(&mut self, item: &syn::ItemFn) {
        if is_for_tests(&item.attrs) {
            return;
        }
        if item.sig.asyncness.is_some() {
            self.look_at_loops(&item.block);
        }
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &syn::ImplItemFn) {
        if is_for_tests(&item.attrs) {
            return;
        }
        if item.sig.asyncness.is_some() {
            self.look_at_loops(&item.block);
        }
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_enum(&mut self, item: &syn::ItemEnum) {
        for variant in &item.variants {
            self.around.extend([item.ident.to_string(), variant.ident.to_string()]);
            self.look_at_fields(&variant.fields, &item.ident);
            self.around.truncate(self.around.len() - 2);
        }
        self.look_at_defaults(&item.generics);
    }

    fn visit_item_static(&mut self, item: &syn::ItemStatic) {
        self.look_at(&item.ident.to_string(), &item.ty, line(item.span()), None);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        if call.path.segments.last().is_some_and(|name| name.ident == "thread_local") {
            let statics: Statics = call.parse_body().expect("thread_local! of statics");
            for (name, ty) in statics.0 {
                self.look_at(&name.to_string(), &ty, line(name.span()), None);
            }
        } else {
            self.look_at_tokens(call.tokens.clone());
        }
        visit::visit_macro(self, call);
    }

    // `Box<dyn Any>` holds a collection if something takes it for one.
    fn visit_expr_method_call(&mut self, call: &syn::ExprMethodCall) {
        let types = call.turbofish.iter().flat_map(|types| &types.args);
        let mut types = types.filter_map(|argument| match argument {
            syn::GenericArgument::Type(ty) => Some(ty),
            _ => None,
        });
        let is_changed = Grown { is_changed: true, is_replaced: false };
        if call.method == "downcast_mut" && types.any(|ty| self.holds_one(ty, is_changed, None)) {
            self.find("an object of any type", line(call.method.span()));
        }
        visit::visit_expr_method_call(self, call);
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
        self.look_at_loops(&block.block);
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
    with_parsed_code(|| {
        let crates = ["couplet", "couplet-os", "couplet-bench"].into_iter();
        let (broken, all): (Vec<_>, Vec<_>) =
            crates.chain(PROGRAMS).map(|name| Queues::unbounded(library(name))).unzip();
        assert!(all.iter().sum::<usize>() > 200, "{all:?} queues were found");
        assert_none(
            &broken.concat(),
            "law 9: every queue has a bound, or a sentence that says why not. Bound it, and say so above it: \
         `// Bound: …`, or `// Unbounded: …` if only its own user makes it grow",
        );
    });
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
        (
            "struct S { all: String } fn f(s: &mut S) { let S { all } = s; all.push_str(x); }",
            "S.all",
        ),
        (
            "enum E { A(String) } fn f(e: &mut E) { if let E::A(all) = e { all.push_str(x) } }",
            "E::A.0",
        ),
        ("struct S(String); impl S { fn f(&mut self) { self.0.push_str(x) } }", "S.0"),
        (
            "struct S { all: String } fn f(s: &mut S) { s.all = format!(\"{}{x}\", s.all); }",
            "S.all",
        ),
        (
            "struct S { all: Box<str> } fn f(s: &mut S) { s.all = [&*s.all, x].concat().into(); }",
            "S.all",
        ),
        (
            "use bytes::Bytes; struct S { all: Bytes }
             fn f(s: &mut S) { s.all = [&s.all, x].concat().into(); }",
            "S.all",
        ),
        (
            "struct S { all: Cow<'static, str> } fn f(s: &mut S) { s.all.to_mut().push_str(x); }",
            "S.all",
        ),
        ("struct S { all: String } fn f(s: &mut S) { s.all.write_char(x); }", "S.all"),
        // Other types, and other places.
        ("struct S { all: futures_util::stream::FuturesUnordered<u8> }", "S.all"),
        ("struct S { all: Box<dyn std::io::Write> }", "S.all"),
        ("mod a { pub use std::collections::VecDeque as Q; } struct S { all: a::Q<u8> }", "S.all"),
        ("mod a { pub type All = Vec<u8>; } struct S { all: a::All }", "S.all"),
        ("impl T for u8 { type Queue = Vec<u8>; } struct S { all: <u8 as T>::Queue }", "S.all"),
        ("struct S<T = Vec<u8>> { all: T }", "S.T"),
        ("struct Node { next: Option<Box<Node>> }", "Node.next"),
        ("enum Node { Last, More(Rc<Node>) }", "Node::More.0"),
        ("macro_rules! m { ($n:ident) => { struct $n { all: Vec<u8> } } }", "a field in a macro"),
        ("m! { static ALL: Mutex<Vec<u8>> = f(); }", "a static in a macro"),
        ("impl Sink for Vec<u8> { fn add(&mut self, x: u8) { self.push(x) } }", "impl for Vec"),
        ("fn f(a: &mut dyn Any) { a.downcast_mut::<Vec<u8>>().push(1) }", "an object of any type"),
        (
            "async fn f() { let mut all = Vec::new(); loop { all.push(next().await) } }",
            "all in a loop that awaits",
        ),
        (
            "fn f() { async { let mut all = vec![]; while let Some(x) = next().await { all.push(x) } } }",
            "all in a loop that awaits",
        ),
        // Captured.
        (
            "fn f() { let mut all = (Vec::new(), 0); keep(move |x| all.0.push(x)); }",
            "all in a closure",
        ),
        (
            "fn f() { let mut all = [Vec::new()]; keep(move |x| all[0].push(x)); }",
            "all in a closure",
        ),
        ("fn f(mut all: Vec<u8>) { keep(move |x| Vec::push(&mut all, x)) }", "all in a closure"),
        ("fn f(mut all: String) { keep(move |x| write!(all, \"{x}\")) }", "all in a closure"),
        (
            "fn f(mut all: Vec<u8>) { keep(move |x| all = [&all[..], x].concat()) }",
            "all in a closure",
        ),
        ("fn f(mut all: Vec<u8>) { keep(move |n| all.resize(n, 0)) }", "all in a closure"),
        ("fn f() { let mut all = Vec::new(); keep(move |x| all.push(x)); }", "all in a closure"),
        (
            "fn f() { let all = Rc::new(x); keep(move |x| all.borrow_mut().push_back(x)); }",
            "all in a closure",
        ),
        ("fn f(mut m: BTreeMap<u8, u8>) { keep(move |x| { m.insert(x, x); }) }", "m in a closure"),
        ("fn f(mut s: String) { keep(move |x| s.push_str(x)) }", "s in a closure"),
        ("fn f(mut s: String) { keep(move |x| s += \"more\") }", "s in a closure"),
        ("fn f(mut v: Vec<u8>) { spawn(async move { v.extend(next().await) }) }", "v in a closure"),
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
        "struct S { n: Cell<u8>, all: std::rc::Rc<str>, next: Weak<S>, above: &'static S }",
        "struct S { all: String } fn f(s: &mut S) { s.all = format!(\"{x}\"); s.all = y; }",
        "async fn f() { loop { let mut all = Vec::new(); all.push(next().await); } }",
        "fn f() { let mut n = 0; keep(move |x| n = n + x) }",
    ] {
        assert_eq!(found(text), Vec::<String>::new(), "{text}");
    }
}
