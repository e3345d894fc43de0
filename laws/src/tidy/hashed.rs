//! Laws 3 and 6: nothing depends on the order of a hash table, which differs between processes.
//!
//! Every `HashMap` and `HashSet` has a row that says how it is used, and none is iterated.
//! `clippy.toml` forbids the iterating methods by type as well.

use std::collections::BTreeSet;

use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::source::{
    Code, PROGRAMS, assert_none, is_for_tests, library, line, names_in, with_parsed_code,
};

/// The file, the `.field`, local or type that holds a hash table, and why its order doesn't matter.
const LOOKED_UP: [(&str, &str, &str); 5] = [
    ("couplet-core/src/protocols/policies.rs", "Peers", "looked up by address, and counted"),
    ("couplet-core/src/protocols/policies.rs", ".open", "of the type Peers"),
    ("couplet-core/src/protocols/policies.rs", ".counted", "of the type Peers"),
    ("poetry/src/catalogue.rs", ".poems", "looked up by title; the list of titles is separate"),
    ("poetry/src/catalogue.rs", "by_title", "becomes `poems`"),
];

/// Methods that iterate.
const WALKS: [&str; 12] = [
    "drain",
    "extract_if",
    "into_iter",
    "into_keys",
    "into_values",
    "iter",
    "iter_mut",
    "keys",
    "retain",
    "union",
    "values",
    "values_mut",
];

/// The hash tables of a file, and their iterations.
struct Tables<'a> {
    file: &'a Code,
    /// The types, `.fields` and locals that hold one.
    names: BTreeSet<String>,
    declared: Vec<(String, usize)>,
    broken: Vec<String>,
}

impl Tables<'_> {
    fn has_table(&self, syntax: &impl ToTokens) -> bool {
        let names = names_in(syntax.to_token_stream());
        names.iter().any(|name| {
            let meaning = self.file.meaning(std::slice::from_ref(name));
            let is = |name: &String| name == "HashMap" || name == "HashSet";
            meaning.iter().any(is) || self.names.contains(name)
        })
    }

    fn declare(&mut self, name: String, at: usize) {
        self.names.insert(name.clone());
        self.declared.push((name, at));
    }

    fn refuse(&mut self, at: usize, what: &str) {
        self.broken.push(format!("{}:{at} {what}", self.file.path));
    }

    fn table_used_by(&self, expression: &syn::Expr) -> Option<String> {
        let mut through = Through(Vec::new());
        through.visit_expr(expression);
        through.0.into_iter().find(|name| self.names.contains(name))
    }
}

/// The `.fields` and locals in an expression.
struct Through(Vec<String>);

impl Visit<'_> for Through {
    fn visit_expr_field(&mut self, field: &syn::ExprField) {
        self.0.push(format!(".{}", field.member.to_token_stream()));
        visit::visit_expr_field(self, field);
    }

    fn visit_expr_path(&mut self, path: &syn::ExprPath) {
        self.0.extend(path.path.get_ident().map(ToString::to_string));
    }
}

impl Visit<'_> for Tables<'_> {
    fn visit_item_mod(&mut self, item: &syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_type(&mut self, item: &syn::ItemType) {
        if self.has_table(&item.ty) {
            self.declare(item.ident.to_string(), line(item.span()));
        }
    }

    fn visit_field(&mut self, field: &syn::Field) {
        if self.has_table(&field.ty) {
            let name = field.ident.as_ref().map_or_else(|| "0".to_owned(), ToString::to_string);
            self.declare(format!(".{name}"), line(field.span()));
        }
    }

    fn visit_pat_type(&mut self, pattern: &syn::PatType) {
        if let syn::Pat::Ident(name) = &*pattern.pat
            && self.has_table(&pattern.ty)
        {
            self.declare(name.ident.to_string(), line(pattern.span()));
        }
        visit::visit_pat_type(self, pattern);
    }

    fn visit_local(&mut self, local: &syn::Local) {
        // `HashMap::new()`, as opposed to a function that takes one.
        if let (syn::Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
            && let syn::Expr::Call(call) = &*init.expr
            && matches!(&*call.func, syn::Expr::Path(path) if path.path.segments.len() > 1)
            && self.has_table(&call.func)
        {
            self.declare(name.ident.to_string(), line(local.span()));
        }
        // `let names = &self.names`, also out of a cell.
        if let (syn::Pat::Ident(name), Some(init)) = (&local.pat, &local.init)
            && is_whole_place(&init.expr)
            && self.table_used_by(&init.expr).is_some()
        {
            self.names.insert(name.ident.to_string());
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_for_loop(&mut self, looping: &syn::ExprForLoop) {
        if let Some(name) = self.table_used_by(&looping.expr) {
            self.refuse(line(looping.span()), &format!("walks {name}"));
        }
        visit::visit_expr_for_loop(self, looping);
    }

    fn visit_expr_method_call(&mut self, call: &syn::ExprMethodCall) {
        let walks = WALKS.iter().any(|walk| call.method == walk);
        if walks && let Some(name) = self.table_used_by(&call.receiver) {
            self.refuse(line(call.method.span()), &format!("walks {name}: .{}()", call.method));
        }
        // `all.extend(table)`.
        if matches!(&*call.method.to_string(), "extend" | "chain" | "zip") {
            let names = call.args.iter().filter_map(|given| self.table_used_by(given));
            for name in names.collect::<Vec<_>>() {
                self.refuse(line(call.method.span()), &format!("walks {name}: .{}()", call.method));
            }
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// True for an expression that stands for a field or local as a whole.
fn is_whole_place(expression: &syn::Expr) -> bool {
    const SAME: [&str; 6] = ["as_mut", "as_ref", "borrow", "borrow_mut", "clone", "lock"];
    match expression {
        syn::Expr::Field(_) | syn::Expr::Path(_) => true,
        syn::Expr::Reference(reference) => is_whole_place(&reference.expr),
        syn::Expr::MethodCall(call) => {
            SAME.iter().any(|same| call.method == same) && is_whole_place(&call.receiver)
        }
        _ => false,
    }
}

impl<'a> Tables<'a> {
    fn of(file: &'a Code) -> Tables<'a> {
        let names = BTreeSet::new();
        let mut tables = Tables { file, names, declared: Vec::new(), broken: Vec::new() };
        // Twice: a field may precede the alias in its type.
        tables.visit_file(&file.syntax);
        tables.declared.clear();
        tables.broken.clear();
        tables.visit_file(&file.syntax);
        tables
    }
}

#[test]
fn no_hash_table_is_walked() {
    with_parsed_code(|| {
        let mut broken = Vec::new();
        let mut seen = BTreeSet::new();
        for file in ["couplet", "couplet-bench"].into_iter().chain(PROGRAMS).flat_map(library) {
            let (_, path) = file.path.split_once('/').expect("a folder");
            let path = path.to_owned();
            let mut tables = Tables::of(file);
            broken.append(&mut tables.broken);
            for (name, line) in tables.declared {
                if LOOKED_UP.iter().any(|(file, known, _)| *file == path && *known == name) {
                    seen.insert((path.clone(), name));
                } else {
                    broken.push(format!(
                        "{}:{line} {name} is a hash table without a row in LOOKED_UP",
                        file.path
                    ));
                }
            }
        }
        for (file, name, _) in LOOKED_UP {
            if !seen.contains(&(file.to_owned(), name.to_owned())) {
                broken.push(format!("{file} has no hash table {name}: remove its row"));
            }
        }
        assert_none(
            &broken,
            "law 3: the order of a hash table differs between processes, so it may not be iterated. Use a \
         BTreeMap, or add a row to LOOKED_UP (laws/src/tidy/hashed.rs)",
        );
    });
}

#[test]
fn each_way_to_walk_a_hash_table_is_found() {
    let found = |text: &str| Tables::of(&Code::of("reactor/turn.rs", text)).broken.len();
    let with = "use std::collections::HashMap as Map; type All = Rc<RefCell<Map<u8, u8>>>;
                struct S { all: All, some: Map<u8, u8> }";
    for walk in [
        "fn f(s: &S) { for x in &s.some {} }",
        "fn f(s: &S) { for x in s.some.clone() {} }",
        "fn f(s: &S) { s.all.borrow().values().max(); }",
        "fn f(s: &S) { s.all.borrow_mut().drain(); }",
        "fn f(s: &S) { let all = s.all.borrow(); for x in all.iter() {} }",
        "fn f(s: &S) { let some = &s.some; for x in some {} }",
        "fn f(s: &mut S) { s.some.retain(|_, _| true); }",
        "fn f(s: S, v: &mut Vec<(u8, u8)>) { v.extend(s.some); }",
        "fn f(m: &Map<u8, u8>) { m.keys().next(); }",
        "fn f() { let m = Map::new(); m.iter(); }",
    ] {
        assert!(found(&format!("{with} {walk}")) > 0, "{walk} is not found");
    }
    let looks_up = "fn f(s: &mut S, all: &[u8]) { s.some.remove(&1); for a in all.iter() {} }";
    assert_eq!(found(&format!("{with} {looks_up}")), 0);
}
