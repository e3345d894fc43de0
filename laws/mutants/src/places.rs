//! Finds possible mutations in a source file. Each [`Mutant`] consists of insertions around a range
//! of the text, so any number of them fits into one file, nested or side by side.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, BinOp, Block, Expr, Lit, Pat, ReturnType, Signature, Stmt, Type, UnOp};

/// Placeholder for the test whether the mutant is selected.
pub const CHOSEN: &str = "\u{1}";

#[derive(Clone)]
pub struct Mutant {
    pub room: &'static str,
    /// Below the `src` of its crate, after that crate's prefix.
    pub file: String,
    pub line: usize,
    /// `Type::function`.
    pub function: String,
    /// Describes the change.
    pub what: String,
    pub edits: Vec<Edit>,
}

/// Insertions around a range of bytes.
#[derive(Clone)]
pub struct Edit {
    pub start: usize,
    pub end: usize,
    pub before: String,
    pub after: String,
}

impl Mutant {
    /// The mutant's name, without a line number, so that it survives changes elsewhere in the file.
    pub fn name(&self) -> String {
        format!("{} | {} | {}", self.file, self.function, self.what)
    }
}

/// Parses the mutants of `named.txt`: `name:`, and for each place `file:`, `at:` (a text that
/// occurs in the file exactly once), and `before:` or `after:`, in which `ON` is true when the
/// mutant is selected.
pub fn named(list: &str, text_of: impl Fn(&str) -> String) -> Vec<Mutant> {
    let mut found: Vec<Mutant> = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if key == "name" {
            found.push(Mutant {
                room: "named",
                file: String::new(),
                line: 0,
                function: "named".to_owned(),
                what: value.to_owned(),
                edits: Vec::new(),
            });
            continue;
        }
        let mutant = found.last_mut().expect("it has a name");
        match key {
            "file" => mutant.file = value.to_owned(),
            "at" => {
                let text = text_of(&mutant.file);
                assert_eq!(text.matches(value).count(), 1, "{}: {value}", mutant.file);
                let start = text.find(value).expect("once");
                let end = start + value.len();
                mutant.edits.push(Edit { start, end, before: String::new(), after: String::new() });
            }
            "before" | "after" => {
                let edit = mutant.edits.last_mut().expect("it has a place");
                let side = if key == "before" { &mut edit.before } else { &mut edit.after };
                *side = format!(" {} ", with_choice(value));
            }
            _ => panic!("named.txt: {line}"),
        }
    }
    found
}

/// The text, in which each word `ON` becomes the mutant's choice.
fn with_choice(text: &str) -> String {
    let mut pieces = text.split("ON");
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    for piece in pieces {
        let is_word = !whole.ends_with(is_of_word) && !piece.starts_with(is_of_word);
        whole.push_str(if is_word { CHOSEN } else { "ON" });
        whole.push_str(piece);
    }
    whole
}

pub fn mutants_of(room: &'static str, file: &str, text: &str) -> Vec<Mutant> {
    let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut finder =
        Finder { room, file, text, of_type: String::new(), function: String::new(), found: vec![] };
    finder.visit_file(&parsed);
    finder.found
}

struct Finder<'a> {
    room: &'static str,
    file: &'a str,
    text: &'a str,
    of_type: String,
    function: String,
    found: Vec<Mutant>,
}

/// True for code that this build does not contain, and for assertions that a release omits.
fn left_out(attrs: &[Attribute]) -> bool {
    attrs.iter().filter(|attr| attr.path().is_ident("cfg")).any(|attr| {
        let syn::Meta::List(list) = &attr.meta else { return true };
        let predicate = list.tokens.to_string().replace(' ', "");
        ["test", "doc", "debug_assertions", "windows"].contains(&predicate.as_str())
            || ["not(", "all(test,"].iter().any(|start| predicate.starts_with(start))
    })
}

/// True for an expression with a `let`, which belongs to the condition around it.
fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        Expr::Paren(paren) => has_let(&paren.expr),
        _ => false,
    }
}

/// Replacements for an operator, as in cargo-mutants.
fn instead_of(op: &BinOp) -> &'static [&'static str] {
    match op {
        BinOp::Add(_) => &["-", "*"],
        BinOp::Sub(_) => &["+", "/"],
        BinOp::Mul(_) => &["+", "/"],
        BinOp::Div(_) => &["%", "*"],
        BinOp::Rem(_) => &["/", "+"],
        BinOp::And(_) => &["||"],
        BinOp::Or(_) => &["&&"],
        BinOp::BitXor(_) => &["|", "&"],
        BinOp::BitAnd(_) => &["|", "^"],
        BinOp::BitOr(_) => &["&"],
        BinOp::Shl(_) => &[">>"],
        BinOp::Shr(_) => &["<<"],
        BinOp::Eq(_) => &["!="],
        BinOp::Ne(_) => &["=="],
        BinOp::Lt(_) => &["==", ">", "<="],
        BinOp::Le(_) => &[">", "<"],
        BinOp::Gt(_) => &["==", "<", ">="],
        BinOp::Ge(_) => &["<", ">"],
        BinOp::AddAssign(_) => &["-=", "*="],
        BinOp::SubAssign(_) => &["+=", "/="],
        BinOp::MulAssign(_) => &["+=", "/="],
        BinOp::BitAndAssign(_) => &["|="],
        BinOp::BitOrAssign(_) => &["&="],
        _ => &[],
    }
}

/// The last word of a type's path, such as `Option`.
fn head(ty: &Type) -> String {
    match ty {
        Type::Path(path) => {
            path.path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

impl Finder<'_> {
    fn text_at(&self, span: Span) -> &str {
        &self.text[span.byte_range()]
    }

    fn add(&mut self, span: Span, what: String, before: String, after: &str) {
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        let range = span.byte_range();
        self.found.push(Mutant {
            room: self.room,
            file: self.file.to_owned(),
            line: span.start().line,
            function: self.function.clone(),
            what,
            edits: vec![Edit {
                start: range.start,
                end: range.end,
                before,
                after: after.to_owned(),
            }],
        });
    }

    /// Moves the last insertion to one position.
    fn move_last(&mut self, at: usize) {
        let edit = &mut self.found.last_mut().expect("it was added").edits[0];
        (edit.start, edit.end) = (at, at);
    }

    /// Replaces the expression at `span`.
    fn replace(&mut self, span: Span, instead: &str) {
        let what = format!("`{}` becomes `{instead}`", self.text_at(span));
        self.add(span, what, format!("(if {CHOSEN} {{ {instead} }} else {{ "), " })");
    }

    fn body(&mut self, signature: &Signature, block: &Block) {
        if signature.constness.is_some() || block.stmts.is_empty() {
            return;
        }
        let output = match &signature.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        };
        let text = output.map(|ty| self.text_at(ty.span()).to_owned()).unwrap_or_default();
        let of_output = output.map(|ty| head(ty)).unwrap_or_default();
        let values: &[&str] = match (text.as_str(), of_output.as_str()) {
            ("" | "()", _) => &[""],
            ("bool", _) => &["true", "false"],
            ("usize" | "u64" | "u32" | "u16" | "u8" | "i32" | "i64", _) => &["0", "1"],
            ("&str" | "&'static str", _) => &["\"\"", "\"xyzzy\""],
            (_, "Option") => &["None"],
            (_, "Result") if text.contains("<()") => &["Ok(())"],
            (_, "Result") => &["Ok(Default::default())"],
            (text, _) if text.starts_with(['&', '!']) || text.starts_with("impl ") => &[],
            _ => &["Default::default()"],
        };
        let open = block.brace_token.span.open();
        let inside = self.text_at(block.brace_token.span.join()).to_owned();
        for value in values {
            if inside.trim_matches(['{', '}']).trim() == *value {
                continue;
            }
            let shown = if value.is_empty() { "()" } else { value };
            let at = open.byte_range().end;
            self.add(
                open,
                format!("the body becomes `{shown}`"),
                format!(" if {CHOSEN} {{ return {value}; }}"),
                "",
            );
            self.move_last(at);
        }
    }

    fn function(&mut self, attrs: &[Attribute], signature: &Signature, block: &Block) {
        let shown = signature.ident == "fmt";
        // Asserts in debug builds and does nothing in others.
        let asserts = signature.ident == "check";
        if left_out(attrs) || signature.constness.is_some() || shown || asserts {
            return;
        }
        let outer = self.function.clone();
        self.function = match &*self.of_type {
            "" => signature.ident.to_string(),
            of_type => format!("{of_type}::{}", signature.ident),
        };
        self.body(signature, block);
        self.visit_block(block);
        self.function = outer;
    }

    fn number(&mut self, span: Span, literal: &syn::LitInt) {
        // A bit pattern: adjacent values are equally valid.
        if self.text_at(span).starts_with("0x") {
            return;
        }
        let (Ok(n), suffix) = (literal.base10_parse::<u128>(), literal.suffix()) else { return };
        self.replace(span, &format!("{}{suffix}", n + 1));
        if n > 0 {
            self.replace(span, &format!("{}{suffix}", n - 1));
        }
    }

    /// Negates conditions without an operator that could be swapped.
    fn condition(&mut self, condition: &Expr) {
        if let Expr::Path(_)
        | Expr::Call(_)
        | Expr::MethodCall(_)
        | Expr::Field(_)
        | Expr::Macro(_) = condition
        {
            let instead = format!("!{}", self.text_at(condition.span()));
            self.replace(condition.span(), &instead);
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Fn(function) => {
                self.function(&function.attrs, &function.sig, &function.block)
            }
            syn::Item::Mod(module) if !left_out(&module.attrs) => visit::visit_item(self, item),
            syn::Item::Impl(implementation) => {
                let of_trait = implementation.trait_.as_ref().map(|(path, _)| {
                    path.segments.last().expect("a path has an end").ident.to_string()
                });
                let shows = matches!(of_trait.as_deref(), Some("Debug" | "Display"));
                if !shows && !left_out(&implementation.attrs) {
                    self.of_type = head(&implementation.self_ty);
                    visit::visit_item(self, item);
                    self.of_type = String::new();
                }
            }
            syn::Item::Trait(item_trait) if !left_out(&item_trait.attrs) => {
                self.of_type = item_trait.ident.to_string();
                visit::visit_item(self, item);
                self.of_type = String::new();
            }
            _ => {}
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        if let syn::ImplItem::Fn(function) = item {
            self.function(&function.attrs, &function.sig, &function.block);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast syn::TraitItem) {
        if let syn::TraitItem::Fn(function) = item
            && let Some(block) = &function.default
        {
            self.function(&function.attrs, &function.sig, block);
        }
    }

    fn visit_type(&mut self, _: &'ast Type) {}
    fn visit_pat(&mut self, _: &'ast Pat) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_stmt(&mut self, stmt: &'ast Stmt) {
        let text = self.text_at(stmt.span());
        let left_out = ["#[cfg(not(", "#[cfg(debug_assertions", "self.check()"];
        if left_out.iter().any(|start| text.starts_with(start)) {
            return;
        }
        let deletable = match stmt {
            Stmt::Expr(
                Expr::Call(_) | Expr::MethodCall(_) | Expr::Assign(_) | Expr::Try(_),
                semi,
            ) => semi.is_some(),
            Stmt::Expr(Expr::Binary(binary), Some(_)) => !instead_of(&binary.op).is_empty(),
            _ => false,
        };
        if deletable {
            let what = format!("`{text}` is left out");
            self.add(stmt.span(), what, format!("if !{CHOSEN} {{ "), " }");
        }
        visit::visit_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            // A capacity affects only the number of allocations.
            Expr::Call(call) if self.text_at(call.func.span()).ends_with("with_capacity") => return,
            Expr::MethodCall(call) if call.method == "reserve" => return,
            Expr::Binary(binary) if !has_let(expr) => {
                let left = self.text_at(binary.left.span()).to_owned();
                let right = self.text_at(binary.right.span()).to_owned();
                let assigns = self.text_at(binary.op.span()).ends_with('=')
                    && !matches!(
                        binary.op,
                        BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Le(_) | BinOp::Ge(_)
                    );
                for op in instead_of(&binary.op) {
                    let instead = match assigns {
                        true => format!("{left} {op} {right}"),
                        false => format!("({left}) {op} ({right})"),
                    };
                    self.replace(expr.span(), &instead);
                    self.found.last_mut().expect("it was added").what = format!(
                        "`{}`: `{op}`",
                        self.text_at(expr.span()).split_whitespace().collect::<Vec<_>>().join(" ")
                    );
                }
            }
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                let instead = self.text_at(unary.expr.span()).to_owned();
                self.replace(expr.span(), &instead);
            }
            Expr::Lit(literal) => {
                if let Lit::Int(number) = &literal.lit {
                    self.number(expr.span(), number);
                }
            }
            Expr::If(conditional) => self.condition(&conditional.cond),
            Expr::While(conditional) => self.condition(&conditional.cond),
            Expr::Match(matching) => {
                let wild = |arm: &syn::Arm| matches!(arm.pat, Pat::Wild(_));
                if matching.arms.iter().any(wild) {
                    for arm in matching.arms.iter().filter(|arm| !wild(arm)) {
                        self.arm_left_out(arm);
                    }
                }
            }
            Expr::Repeat(repeat) => return self.visit_expr(&repeat.expr),
            _ => {}
        }
        visit::visit_expr(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if left_out(&arm.attrs) {
            return;
        }
        if let Pat::Guard(guarded) = &arm.pat {
            if !has_let(&guarded.guard) {
                self.replace(guarded.guard.span(), "true");
                self.replace(guarded.guard.span(), "false");
            }
            self.visit_expr(&guarded.guard);
        }
        self.visit_expr(&arm.body);
    }
}

impl Finder<'_> {
    fn arm_left_out(&mut self, arm: &syn::Arm) {
        let pat = match &arm.pat {
            Pat::Guard(guarded) if has_let(&guarded.guard) => return,
            Pat::Guard(guarded) => {
                let what = format!("the arm `{}` is left out", self.text_at(arm.pat.span()));
                return self.add(guarded.guard.span(), what, format!("!{CHOSEN} && ("), ")");
            }
            pat => pat,
        };
        let what = format!("the arm `{}` is left out", self.text_at(pat.span()));
        let end = pat.span().byte_range().end;
        self.add(pat.span(), what, format!(" if !{CHOSEN}"), "");
        self.move_last(end);
    }
}
