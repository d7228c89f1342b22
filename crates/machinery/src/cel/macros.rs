//! Macros: calls that stand for loops, tests and conditions, and become those when they are read.

use super::ast::{Expr, Fold, Kind};
use super::parser::{Nodes, Stop};
use super::value::Value;

type Made = Result<Expr, Stop>;

/// The name of every loop's accumulator. It cannot be written, so that no variable hides it.
pub(super) const ACCUMULATOR: &str = "@result";
const SORTED: &str = "@__sortBy_input__";

/// A call, or what its macro makes of it.
pub(super) fn expand(nodes: &mut Nodes, at: u32, target: Option<Expr>, name: &str, mut args: Vec<Expr>) -> Made {
    let mut make = Maker { nodes, at };
    let Some(target) = target else {
        if name == "has" && args.len() == 1 {
            return make.has(args.remove(0));
        }
        return make.node(Kind::Call { target: None, function: name.into(), args });
    };
    match (name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne", 2) => make.quantifier(name, target, args, false),
        ("all" | "exists" | "exists_one" | "existsOne", 3) => make.quantifier(name, target, args, true),
        ("map", 2 | 3) => make.map(target, args),
        ("filter", 2) => make.filter(target, args),
        ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => make.transform(name, target, args),
        ("optMap" | "optFlatMap", 2) => make.optional_map(name, target, args),
        ("sortBy", 2) => make.sort_by(target, args),
        _ => make.node(Kind::Call { target: Some(Box::new(target)), function: name.into(), args }),
    }
}

struct Maker<'n> {
    nodes: &'n mut Nodes,
    at: u32,
}

impl Maker<'_> {
    fn node(&mut self, kind: Kind) -> Made {
        self.nodes.make(self.at, kind)
    }

    fn ident(&mut self, name: &str) -> Made {
        self.node(Kind::Ident(name.into()))
    }

    fn accu(&mut self) -> Made {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, value: Value<'static>) -> Made {
        self.node(Kind::Literal(value))
    }

    fn list(&mut self, items: Vec<Expr>) -> Made {
        let optional = vec![false; items.len()];
        self.node(Kind::List { items, optional })
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Made {
        self.node(Kind::Call { target: None, function: function.into(), args })
    }

    fn member(&mut self, target: Expr, function: &str, args: Vec<Expr>) -> Made {
        self.node(Kind::Call { target: Some(Box::new(target)), function: function.into(), args })
    }

    fn wrong(&mut self, of: &Expr, message: &str) -> Made {
        let offset = self.nodes.offset(of);
        self.nodes.wrong(offset, message)
    }

    fn has(&mut self, of: Expr) -> Made {
        match of.kind {
            Kind::Select { operand, field, test: false } => self.node(Kind::Select { operand, field, test: true }),
            _ => self.wrong(&of, "invalid argument to has() macro"),
        }
    }

    /// The names of loop variables, or what is wrong with them.
    fn variables(&mut self, args: &[Expr], words: &str) -> Result<Vec<Box<str>>, Made> {
        let mut names: Vec<Box<str>> = Vec::new();
        for arg in args {
            let Kind::Ident(name) = &arg.kind else { return Err(self.wrong(arg, words)) };
            if names.contains(name) {
                return Err(self.wrong(arg, &format!("duplicate variable name: {name}")));
            }
            if &**name == ACCUMULATOR || &**name == "__result__" {
                return Err(self.wrong(arg, "iteration variable overwrites accumulator variable"));
            }
            names.push(name.clone());
        }
        Ok(names)
    }

    fn fold(&mut self, range: Expr, vars: Vec<Box<str>>, [init, condition, step, result]: [Expr; 4]) -> Made {
        let mut vars = vars.into_iter();
        let fold = Fold {
            range,
            var: vars.next().expect("a loop has a variable"),
            var2: vars.next(),
            accu: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        };
        self.node(Kind::Fold(Box::new(fold)))
    }

    fn quantifier(&mut self, name: &str, range: Expr, mut args: Vec<Expr>, two: bool) -> Made {
        let vars = match self.variables(&args[..1 + usize::from(two)], "argument must be a simple name") {
            Ok(vars) => vars,
            Err(wrong) => return wrong,
        };
        let predicate = args.pop().expect("the parser counted them");
        let parts = match name {
            "all" => {
                let (accu, step) = (self.accu()?, self.accu()?);
                [
                    self.literal(Value::Bool(true))?,
                    self.call("@not_strictly_false", vec![accu])?,
                    self.call("_&&_", vec![step, predicate])?,
                    self.accu()?,
                ]
            }
            "exists" => {
                let (accu, step) = (self.accu()?, self.accu()?);
                let not = self.call("!_", vec![accu])?;
                [
                    self.literal(Value::Bool(false))?,
                    self.call("@not_strictly_false", vec![not])?,
                    self.call("_||_", vec![step, predicate])?,
                    self.accu()?,
                ]
            }
            _ => {
                let (accu, one) = (self.accu()?, self.literal(Value::Int(1))?);
                let more = self.call("_+_", vec![accu, one])?;
                let (same, accu, one) = (self.accu()?, self.accu()?, self.literal(Value::Int(1))?);
                [
                    self.literal(Value::Int(0))?,
                    self.literal(Value::Bool(true))?,
                    self.call("_?_:_", vec![predicate, more, same])?,
                    self.call("_==_", vec![accu, one])?,
                ]
            }
        };
        self.fold(range, vars, parts)
    }

    /// A loop that collects: `step`, where the filter lets it.
    fn collect(&mut self, range: Expr, vars: Vec<Box<str>>, init: Expr, filter: Option<Expr>, step: Expr) -> Made {
        let step = match filter {
            None => step,
            Some(filter) => {
                let same = self.accu()?;
                self.call("_?_:_", vec![filter, step, same])?
            }
        };
        let parts = [init, self.literal(Value::Bool(true))?, step, self.accu()?];
        self.fold(range, vars, parts)
    }

    fn append(&mut self, item: Expr) -> Made {
        let (accu, item) = (self.accu()?, self.list(vec![item])?);
        self.call("_+_", vec![accu, item])
    }

    fn map(&mut self, range: Expr, mut args: Vec<Expr>) -> Made {
        let vars = match self.variables(&args[..1], "argument is not an identifier") {
            Ok(vars) => vars,
            Err(wrong) => return wrong,
        };
        let transform = args.pop().expect("the parser counted them");
        let filter = if args.len() == 2 { args.pop() } else { None };
        let (init, step) = (self.list(Vec::new())?, self.append(transform)?);
        self.collect(range, vars, init, filter, step)
    }

    fn filter(&mut self, range: Expr, mut args: Vec<Expr>) -> Made {
        let vars = match self.variables(&args[..1], "argument is not an identifier") {
            Ok(vars) => vars,
            Err(wrong) => return wrong,
        };
        let filter = args.pop();
        let item = args.pop().expect("the parser counted them");
        let (init, step) = (self.list(Vec::new())?, self.append(item)?);
        self.collect(range, vars, init, filter, step)
    }

    fn transform(&mut self, name: &str, range: Expr, mut args: Vec<Expr>) -> Made {
        let vars = match self.variables(&args[..2], "argument must be a simple name") {
            Ok(vars) => vars,
            Err(wrong) => return wrong,
        };
        let transform = args.pop().expect("the parser counted them");
        let filter = if args.len() == 3 { args.pop() } else { None };
        let (init, step) = if name == "transformList" {
            (self.list(Vec::new())?, self.append(transform)?)
        } else {
            let mut insert = vec![self.accu()?];
            if name == "transformMap" {
                insert.push(self.ident(&vars[0])?);
            }
            insert.push(transform);
            (self.node(Kind::Map(Vec::new()))?, self.call("cel.@mapInsert", insert)?)
        };
        self.collect(range, vars, init, filter, step)
    }

    /// `result`, in which `name` stands for `value`.
    fn bind(&mut self, name: &str, value: Expr, result: Expr) -> Made {
        let fold = Fold {
            range: self.list(Vec::new())?,
            var: "#unused".into(),
            var2: None,
            accu: name.into(),
            init: value,
            condition: self.literal(Value::Bool(false))?,
            step: self.ident(name)?,
            result,
        };
        self.node(Kind::Fold(Box::new(fold)))
    }

    fn optional_map(&mut self, macro_name: &str, target: Expr, mut args: Vec<Expr>) -> Made {
        let result = args.pop().expect("the parser counted them");
        let Kind::Ident(name) = &args[0].kind else {
            return self.wrong(&args[0], &format!("{macro_name}() variable name must be a simple identifier"));
        };
        let copy = self.nodes.copy(&target)?;
        let value = self.member(copy, "value", Vec::new())?;
        let mut bound = self.bind(name, value, result)?;
        if macro_name == "optMap" {
            bound = self.call("optional.of", vec![bound])?;
        }
        let has = self.member(target, "hasValue", Vec::new())?;
        let none = self.call("optional.none", Vec::new())?;
        self.call("_?_:_", vec![has, bound, none])
    }

    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Made {
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Message { .. }) {
            let why = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return self.wrong(&target, why);
        }
        let input = self.ident(SORTED)?;
        let keys = self.map(input, args)?;
        let input = self.ident(SORTED)?;
        let sorted = self.member(input, "@sortByAssociatedKeys", vec![keys])?;
        self.bind(SORTED, target, sorted)
    }
}
