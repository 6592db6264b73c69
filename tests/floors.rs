//! Imports go down only: no file of a crate knows one that knows it, by whatever detour. Re-exports count.
//!
//! The source is read, and not the compiled program: `use`, `pub use` and every other path that begins with `crate`, `self`,
//! `super` or a module below. Modules for tests alone do not count.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A module's path from the root of its crate: `["store", "shelf"]`.
type Module = Vec<String>;

/// The crates of the repository: where their sources are, and the heading of their floors in `docs/architecture.md`.
const CRATES: [(&str, &str); 4] = [
    ("src", "### The library"),
    ("cli/src", "### The command"),
    ("python/src", "### The Python package"),
    ("testkit/src", "### The test kit"),
];

#[test]
fn imports_go_down_only() {
    for (source, _) in CRATES {
        let circles = Tree::read(source).circles();
        assert!(
            circles.is_empty(),
            "{source}: imports go round:\n{}",
            circles.join("\n")
        );
    }
}

#[test]
fn the_floors_are_drawn_as_they_are() {
    for (source, heading) in CRATES {
        let tree = Tree::read(source);
        let floors = Floors::read(heading);
        let mut wrong = Vec::new();
        let mut used = BTreeSet::new();
        for (file, arrows) in &tree.arrows {
            let Some((floor, name)) = floors.of(&tree.name(file)) else {
                wrong.push(format!("{} is on no floor", tree.name(file)));
                continue;
            };
            used.insert(name);
            for (target, line) in arrows {
                if floors
                    .of(&tree.name(target))
                    .is_some_and(|(below, _)| below > floor)
                {
                    wrong.push(format!(
                        "{}:{line} imports {}, which is above it",
                        tree.name(file),
                        tree.name(target)
                    ));
                }
            }
        }
        let unused = floors.0.keys().filter(|name| !used.contains(name.as_str()));
        wrong.extend(unused.map(|name| format!("{name} is on a floor and in no file")));
        assert!(
            wrong.is_empty(),
            "{source}, {heading}:\n{}",
            wrong.join("\n")
        );
    }
}

/// What is on which floor, counted from the ground. A name stands for its file and for the folder of that name.
struct Floors(BTreeMap<String, usize>);

impl Floors {
    /// Reads the table below a heading: number, names, what is there.
    fn read(heading: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
        let text = fs::read_to_string(path).unwrap();
        let (_, below) = text.split_once(heading).expect(heading);
        let rows = below.lines().skip_while(|line| !line.starts_with("|--"));
        let mut floors = BTreeMap::new();
        for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let number = cells[1].parse().unwrap();
            for name in cells[2].split('`').skip(1).step_by(2) {
                let before = floors.insert(name.to_owned(), number);
                assert_eq!(before, None, "{name} is on two floors");
            }
        }
        assert!(floors.len() > 5, "there is no table below {heading}");
        Self(floors)
    }

    /// The floor of a file, and the name by which it is there: the longest that fits.
    fn of(&self, file: &str) -> Option<(usize, &str)> {
        let mut name = file.strip_suffix(".rs")?;
        loop {
            if let Some((name, floor)) = self.0.get_key_value(name) {
                return Some((*floor, name));
            }
            (name, _) = name.rsplit_once('/')?;
        }
    }
}

/// The files of a crate, and which of them name which others.
struct Tree {
    root: PathBuf,
    /// Which file a module is in.
    files: BTreeMap<Module, PathBuf>,
    /// From a file to those it names, with the line of the first place.
    arrows: BTreeMap<PathBuf, BTreeMap<PathBuf, usize>>,
}

impl Tree {
    fn read(source: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let mut tree = Self {
            files: BTreeMap::new(),
            arrows: BTreeMap::new(),
            root,
        };
        tree.find(&tree.root.clone());
        assert!(tree.files.len() > 5, "{source} has no files");
        for (module, file) in tree.files.clone() {
            tree.follow(module, &file);
        }
        tree
    }

    fn find(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.find(&path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(&self.root).unwrap().with_extension("");
                let mut module: Module = inside
                    .iter()
                    .map(|part| part.to_str().unwrap().to_owned())
                    .collect();
                if module == ["lib"] || module == ["main"] {
                    module.clear();
                }
                self.files.insert(module, path);
            }
        }
    }

    /// Takes up what a file names.
    fn follow(&mut self, module: Module, file: &Path) {
        let text = fs::read_to_string(file).unwrap();
        let mut names = Names {
            here: module,
            files: &self.files,
            found: Vec::new(),
        };
        names.visit_file(&syn::parse_file(&text).unwrap());
        let arrows = self.arrows.entry(file.to_owned()).or_default();
        for (path, line) in names.found {
            let target = (0..=path.len())
                .rev()
                .find_map(|len| self.files.get(path.get(..len)?));
            let target = target.expect("the root of the crate is a file");
            if target != file {
                arrows.entry(target.clone()).or_insert(line);
            }
        }
    }

    /// The shortest circle through each file that is in one, each circle once.
    fn circles(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for start in self.arrows.keys() {
            if !seen.contains(start)
                && let Some(circle) = self.way_back(start)
            {
                seen.extend(circle.iter().cloned());
                circles.push(self.shown(&circle));
            }
        }
        circles
    }

    /// The shortest way from a file back to it.
    fn way_back(&self, start: &Path) -> Option<Vec<PathBuf>> {
        let mut ways = VecDeque::from([vec![start.to_owned()]]);
        let mut reached = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            for next in self.arrows.get(way.last()?)?.keys() {
                if next == start {
                    return Some(way);
                }
                if reached.insert(next.clone()) {
                    let mut longer = way.clone();
                    longer.push(next.clone());
                    ways.push_back(longer);
                }
            }
        }
        None
    }

    /// A file, from the root of the sources.
    fn name(&self, file: &Path) -> String {
        file.strip_prefix(&self.root).unwrap().display().to_string()
    }

    fn shown(&self, circle: &[PathBuf]) -> String {
        let ends = circle.iter().cycle().skip(1);
        let steps = circle.iter().zip(ends).map(|(from, to)| {
            let line = self.arrows[from][to];
            format!("{}:{line} -> {}", self.name(from), self.name(to))
        });
        steps.collect::<Vec<_>>().join(", ")
    }
}

/// The modules that a file names.
struct Names<'a> {
    here: Module,
    files: &'a BTreeMap<Module, PathBuf>,
    found: Vec<(Module, usize)>,
}

impl Names<'_> {
    fn add(&mut self, parts: &[String], line: usize) {
        let Some((first, rest)) = parts.split_first() else {
            return;
        };
        let mut path = match first.as_str() {
            "crate" => Vec::new(),
            "self" => self.here.clone(),
            "super" => self.here[..self.here.len() - 1].to_vec(),
            // A module below this one, or something from outside of the crate.
            name => {
                let mut below = self.here.clone();
                below.push(name.to_owned());
                if !self.files.contains_key(&below) {
                    return;
                }
                below
            }
        };
        for part in rest {
            if part == "super" {
                path.pop();
            } else {
                path.push(part.clone());
            }
        }
        self.found.push((path, line));
    }

    fn add_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| {
            let mut parts = before.to_vec();
            parts.push(ident.to_string());
            parts
        };
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(syn::UseName { ident })
            | syn::UseTree::Rename(syn::UseRename { ident, .. }) => {
                let line = ident.span().start().line;
                match ident == "self" {
                    true => self.add(before, line),
                    false => self.add(&with(ident), line),
                }
            }
            syn::UseTree::Glob(glob) => self.add(before, glob.star_token.span.start().line),
            syn::UseTree::Group(group) => group
                .items
                .iter()
                .for_each(|tree| self.add_tree(tree, before)),
        }
    }

    /// What macros are given is not parsed: paths from the root are looked for in it.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut parts: Vec<String> = Vec::new();
        let mut line = 0;
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    self.add_tokens(group.stream());
                    self.add(&std::mem::take(&mut parts), line);
                }
                TokenTree::Ident(ident) if parts.is_empty() => {
                    let name = ident.to_string();
                    let is_path = matches!(tokens.get(at + 1..at + 3), Some([TokenTree::Punct(one), TokenTree::Punct(two)])
                        if one.as_char() == ':' && two.as_char() == ':');
                    if is_path && matches!(name.as_str(), "crate" | "self" | "super") {
                        parts.push(name);
                        line = ident.span().start().line;
                    }
                }
                TokenTree::Ident(ident) => parts.push(ident.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                _ => self.add(&std::mem::take(&mut parts), line),
            }
        }
        self.add(&parts, line);
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|one| {
        one.path().is_ident("cfg")
            && matches!(&one.meta, syn::Meta::List(list) if {
                let text = list.tokens.to_string();
                text == "test" || text.starts_with("all (test") || text.starts_with("all (doctest")
            })
    })
}

impl<'ast> Visit<'ast> for Names<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.add_tree(&item.tree, &[]);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_some() && !is_for_tests(&item.attrs) {
            self.here.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.here.pop();
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|one| one.ident.to_string())
            .collect();
        if parts.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            self.add(&parts, line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.add_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}
