"""The mutants: (file, old text, new text, tests that should notice). Each old text occurs once in its file.

Not here, because nothing else changes with them: the check for one place treated in two ways (the program match
refuses the same), decorators kept on a rewritten forward (only its code is used), integers matched by place or in
order of value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}"


BROKEN = ("tests/proof/test_broken_plans.py",)
NUMBERS = ("tests/proof/test_numbers.py", "-k", "verdicts or difference or perturbed or repeated")
DELIVERED = ("tests/proof/test_delivered.py",)
RETURNED = ("tests/proof/test_cotangents.py",)
CHOICES = ("tests/proof/test_choices.py", "-k", "not mixture")
BOUND = ("tests/proof/test_numbers.py", "-k", "bound")
EDITS = ("tests/lower/test_edits.py",)
PLACES = ("tests/lower/test_places.py",)
POLICY = ("tests/solve/test_policy.py",)
TIES = ("tests/solve/test_ties.py",)
GUARD = ("tests/lower/test_guard.py", "-k", "branches or dropout or compared or text or again")
PAGE = ("tests/report/test_page.py",)
BROWSER = ("tests/report/test_page_browser.py",)
ROUNDS = ("tests/lower/test_rounds.py",)
SHAPES = ("tests/capture/test_shapes.py",)
BRUTE_FORCE = ("tests/solve/test_problem.py",)
FOLLOWING = ("tests/lower/test_following.py",)
TURNS = ("tests/runtime/test_turns.py",)
TOLD_APART = (*BRUTE_FORCE, "-k", "told_apart or preferred")
APART = (*BRUTE_FORCE, "-k", "plan_apart")
REACH = ("tests/lower/test_reach.py",)
SIZES = ("tests/lower/test_sizes.py",)
BACKWARD = ("tests/proof/test_gradients.py",)
SERVES = ("tests/lower/test_backward_places.py",)
COTANGENTS = ("tests/runtime/test_cotangents.py",)
TABLE = ("tests/lower/test_places.py", "-k", "conversions")
FILES = ("tests/lower/test_parallelize.py", "-k", "not stay and not else")
WRITES = ("tests/capture/test_record.py", "-k", "writes or small")
DISCOVER = ("tests/axes/test_discover.py",)
SETTLES = ("tests/lower/test_rounds.py", "-k", "costs_nothing")
SWITCHED = ("tests/capture/test_record.py", "-k", "switched")
MAPPED = ("tests/models_zoo/test_outside.py", "--full", "-k", "mapped")
PHASES = ("tests/capture/test_phases.py", "-k", "not caches")
WARM = ("tests/capture/test_record.py", "-k", "how_often")
MEMOS = ("tests/capture/test_memos.py",)
LAYOUT = ("tests/runtime/test_layout.py",)
SLICES = ("tests/checkpoint/test_stream.py",)
COPIES = ("tests/capture/test_copies.py",)
DRAWS = ("tests/proof/test_numbers.py", "-k", "draws or returned")
EXPORT = ("tests/auditing/test_export.py", "-k", "training_only or older")
TRAINING = ("tests/test_training.py",)
VARIABLE = ("tests/axes/test_variable.py",)
STATES = ("tests/lower/test_guard.py", "-k", "forgotten")
FORMULAE = ("tests/memory/test_formulae.py",)
LESSON = ("tests/lesson/test_compare.py",)
LEARNER = ("tests/lesson/test_exercise.py",)
SHARED = ("tests/runtime/test_shared.py",)
LIBRARY = ("tests/runtime/test_backend.py",)
MEASURED = ("tests/memory/test_model.py",)


def zoo(*names: str) -> tuple[str, ...]:
    """Whole models against ranks, and an expert's figures; a name is `model-ranks`."""
    return (
        *tuple(f"tests/models_zoo/test_equal.py::test_equal_and_as_an_expert_would[{name}]" for name in names),
        "--full",
    )


def zoo_gradients(*names: str) -> tuple[str, ...]:
    return (*(f"tests/models_zoo/test_gradients.py::test_gradients[{name}]" for name in names), "--full")


MUTANTS: dict[str, list[Mutant]] = {
    "converted forwards": [
        Mutant("lower/apply.py", "        unregister(key)\n        raise", "        raise", PLACES),
        Mutant("lower/fused.py", "module.activation_relu_or_gelu = 0", "pass", PLACES),
        Mutant(
            "lower/apply.py",
            "    @wraps(forward)\n    def forward_converted(*args: Any, **kwargs: Any) -> Any:\n        output",
            "    def forward_converted(*args: Any, **kwargs: Any) -> Any:\n        output",
            PLACES,
        ),
        Mutant(
            "lower/apply.py",
            "    @wraps(forward)\n    def forward_converted(*args: Any, **kwargs: Any) -> Any:\n        if",
            "    def forward_converted(*args: Any, **kwargs: Any) -> Any:\n        if",
            PLACES,
        ),
        Mutant("lower/apply.py", "elif name in kwargs:  # else", "elif True:  # else", PLACES),
        Mutant("lower/apply.py", "kwargs[name] = with_leaf(kwargs[name], rest, step)", "pass", PLACES),
        Mutant("runtime/layout.py", "if self._in_order and tuple(", "if tuple(", LAYOUT),
        Mutant(
            "runtime/layout.py",
            "if self._in_order and tuple(part.shape[self.dim] for part in parts) == self._sizes:",
            "if self._in_order:",
            LAYOUT,
        ),
    ],
    "slices of a checkpoint": [
        Mutant("checkpoint/stream.py", "if gap < GAP_BYTES:", "if True:", SLICES),
        Mutant("checkpoint/stream.py", "if gap < GAP_BYTES:", "if gap < 0:", SLICES),
        Mutant("checkpoint/stream.py", "lead + at * strides[0], part.shape", "lead, part.shape", SLICES),
        Mutant("checkpoint/stream.py", "max(1, PIECE_BYTES // strides[0])", "len(out)", SLICES),
        Mutant("checkpoint/stream.py", "max(1, PIECE_BYTES // strides[0])", "PIECE_BYTES // strides[0]", SLICES),
        Mutant("checkpoint/stream.py", "if dim not in single), 1)", "), 1)", SLICES),
        Mutant("checkpoint/stream.py", "if error.errno != errno.EINVAL:", "if False:", SLICES),
        Mutant("checkpoint/stream.py", "if error.errno != errno.EINVAL:", "if True:", SLICES),
        Mutant("checkpoint/stream.py", "if _POPULATE_READ is not None:", "if True:", SLICES),
        Mutant("checkpoint/stream.py", "begin - lead, lead + length", "begin - lead, length", SLICES),
        Mutant("checkpoint/stream.py", "_POPULATE_READ, begin - lead", "_POPULATE_READ, begin", SLICES),
        Mutant("checkpoint/stream.py", "except (OSError, ValueError) as error:", "except OSError as error:", SLICES),
        Mutant(
            "checkpoint/stream.py", "np.copyto(part, box[at : at + step])", "np.copyto(part, box[: len(part)])", SLICES
        ),
        Mutant("checkpoint/stream.py", "begin -= begin % mmap.PAGESIZE", "pass", SLICES),
        Mutant("checkpoint/stream.py", "(len(part) - 1) * part.strides[0]", "0", SLICES),
    ],
    "axes": [
        Mutant(
            "capture/record.py",
            'name = op._opname if getattr(op, "namespace", "") == "aten" else',
            "name = op._opname if True else",
            DISCOVER,
        ),
        Mutant(
            "axes/trial.py", "return bool(((found == wanted) |", "return bool((torch.isclose(found, wanted) |", DISCOVER
        ),
        Mutant("axes/trial.py", 'return "its parts are not the parts of the whole result"', "continue", DISCOVER),
        Mutant("axes/trial.py", 'return "its parts do not sum up to the whole result"', "continue", DISCOVER),
        Mutant(
            "axes/trial.py", "return math.copysign(2.0 ** round(math.log2(abs(tree))), tree)", "return tree", DISCOVER
        ),
        Mutant("axes/trial.py", 'raise CannotTry("it draws random numbers")', "pass", DISCOVER),
        Mutant("axes/discover.py", "if checks_shapes(self.call.node.op):", "if False:", DISCOVER),
        Mutant("axes/discover.py", "reading[position] = tuple(of.get(", "reading[position] = tuple({}.get(", DISCOVER),
        Mutant("axes/remember.py", "if not belongs_to_torch(op):", "if False:", DISCOVER),
        Mutant("axes/law.py", 'if op.namespace != "aten":', "if False:", DISCOVER),
        Mutant("axes/pattern.py", "whole += [letters[letter] for letter in pattern.whole]", "pass", DISCOVER),
        Mutant("axes/pattern.py", "law.additive = frozenset(pattern.added)", "pass", DISCOVER),
        Mutant("proof/verify.py", "stated = sum(not law.assumption for law in laws)", "stated = len(laws)", DISCOVER),
        Mutant("proof/numbers.py", 'if func.namespace != "aten":  #', "if False:  #", DISCOVER),
    ],
    "variable sizes": [
        Mutant(
            "solve/build.py",
            "variable = {ties.axis.get(leaf) for leaf in variable_leaves(derived)}",
            "variable = set()",
            VARIABLE,
        ),
        Mutant("axes/variable.py", "if not followed <= fixed:", "if True:", VARIABLE),
        Mutant("axes/variable.py", "_sizes_read(derived, node, weights) | of_inputs", "of_inputs", VARIABLE),
        Mutant("axes/variable.py", "if axes.find(axis) not in cut for leaf", "for leaf", VARIABLE),
    ],
    "capture": [
        Mutant(
            "capture/record.py",
            "self._versions[key] = self._versions.get(key, 0) + 1",
            "self._versions[key] = 1",
            WRITES,
        ),
        Mutant(
            "capture/record.py", "inverse = sorted(range(len(order)), key=order.__getitem__)", "inverse = order", WRITES
        ),
        Mutant("capture/inplace.py", 'if name in ("slice", "select"):', 'if name in ("slice",):', WRITES),
        Mutant("capture/inplace.py", "start = sum(lengths[:position])", "start = 0", WRITES),
        Mutant(
            "capture/record.py", "other.view_of = before if other.view_of is target else other.view_of", "pass", WRITES
        ),
        Mutant("capture/record.py", "view = (functional_form(op), rest,", "view = (aten.alias.default, (),", WRITES),
        Mutant("capture/inplace.py", "if _taken(form) == _taken(op)]", "if False]", WRITES),
        Mutant("capture/record.py", "if self.transformed:", "if False:", MAPPED),
        Mutant("lower/cotangents.py", " or mode in found.as_made", "", REACH),
        Mutant("lower/planning.py", "found.add(key if at in forbidden else at)", "found.add(key)", REACH),
        Mutant("capture/modes.py", "if in_autograd_function(frame):", "if False:", SWITCHED),
        Mutant("lower/captured.py", "*([OFF] * node.detached)", "", MAPPED),
        Mutant("lower/cotangents.py", " and not node.detached", "", SETTLES),
        Mutant("capture/modes.py", "frame = frame.f_back  # one", "break  # one", SWITCHED),
        Mutant("capture/modes.py", "if not under_transform():", "if True:", MAPPED),
        Mutant(
            "capture/record.py",
            "if under_transform():\n                    return\n                given",
            "if False:\n                    return\n                given",
            MAPPED,
        ),
        Mutant(
            "capture/provenance.py",
            "left, right = (int(other), int(self)) if reflected",
            "left, right = (int(self), int(other)) if reflected",
            PHASES,
        ),
        Mutant(
            "capture/provenance.py",
            "operands = (theirs, mine) if reflected",
            "operands = (mine, theirs) if reflected",
            PHASES,
        ),
        Mutant("capture/provenance.py", "    copied = shallow_copy(holder)\n", "    copied = holder\n", PHASES),
        Mutant("capture/trace.py", "found = [] if fake else", "found = [] if True else", PHASES),
        Mutant("capture/integers.py", "    if wanted == given:\n", "    if len(wanted) == len(given):\n", PHASES),
        Mutant("capture/frames.py", "return index + 2 if frame", "return index if frame", WARM),
        Mutant("capture/trace.py", "uncompiled(), memos_aside(), recorder", "uncompiled(), recorder", MEMOS),
        Mutant(
            "capture/memos.py",
            "if isinstance(tree, (TracedInt, *_OF_TORCH)):",
            "if isinstance(tree, TracedInt):",
            MEMOS,
        ),
        Mutant(
            "proof/program.py", 'if kept.origin == "constant" and value not in', "if False and value not in", PLACES
        ),
        Mutant("capture/modes.py", "meta_converter.tensor_memo.clear()", "meta_converter", PHASES),
        Mutant("capture/memos.py", "if kind is _CELL and", "if False and", MEMOS),
        Mutant("capture/memos.py", "and id(held) not in _own", "", MEMOS),
        Mutant(
            "proof/numbers.py",
            "return made.setdefault(id(tensor), (tensor, _wider(tensor)))[1]",
            "return _wider(tensor)",
            ("tests/proof/test_numbers.py", "-k", "two_names"),
        ),
        Mutant("capture/memos.py", "isinstance(held, staticmethod) and", "False and", MEMOS),
        Mutant("capture/copies.py", "isinstance(held, torch.Tensor) and not held.is_leaf", "False", COPIES),
        Mutant("lower/lowering.py", "sorted(set(decision.captured_in.values()))", "sorted(decision.captured)", REACH),
        Mutant("lower/captured.py", "return int(attributes[expression])", "return 1", REACH),
        Mutant("capture/randomness.py", "if reaching.intersection(node.outputs):", "if True:", DRAWS),
        Mutant("proof/numbers.py", "else tensor.clone()", "else tensor", DRAWS),
        Mutant("lower/apply.py", "    forget(model, plan.states)\n", "", STATES),
    ],
    "lower": [
        Mutant(
            "lower/edits.py",
            "known.setdefault(name, equation.value) != equation.value",
            "known.setdefault(name, equation.value) < 0",
            EDITS,
        ),
        Mutant(
            "lower/edits.py",
            "changed.update({a: v for a, v in solution.items() if v != attributes[a]})",
            "pass",
            EDITS,
        ),
        Mutant("lower/edits.py", "return equation.expression.evaluate(known) == equation.value", "return True", EDITS),
        Mutant(
            "lower/apply.py",
            "return tensor.detach().clone() if rank == 0 else torch.zeros_like(tensor)",
            "return tensor.detach().clone()",
            EDITS,
        ),
        Mutant(
            "lower/apply.py",
            "part = torch.cat(pieces, dim) if len(pieces) > 1 else pieces[0]",
            "part = pieces[0]",
            EDITS,
        ),
        Mutant("lower/apply.py", "return aligned_copy(part)", "return part", (*PLACES, *TRAINING)),
        Mutant(
            "lower/places.py",
            'steps.append(Site(f"{name}:sum", "all_reduce", partial=target == VARIED))',
            "pass",
            PLACES,
        ),
        Mutant(
            "lower/places.py",
            'steps.append(Site(f"{name}:first", "only_first", partial=source == VARIED))',
            "pass",
            PLACES,
        ),
        Mutant(
            "lower/places.py",
            'if source[0] == "M":\n            steps.append(Site(f"{name}:scale"',
            'if False:\n            steps.append(Site(f"{name}:scale"',
            PLACES,
        ),
        Mutant(
            "lower/insert.py", "        if here and isinstance(visited, ast.AugAssign):", "        if False:", PLACES
        ),
        Mutant("lower/stand_in.py", "self._module.training != self._plan.training", "False", PLACES),
        Mutant("lower/planning.py", "if taken is not None and why_not_on(", "if False and why_not_on(", PLACES),
        Mutant("lower/planning.py", "and why_not_on(taken, plan, model, inputs):", "and True:", PLACES),
        Mutant("capture/trace.py", "node.name, *frames))", "node.name))", PLACES),
        Mutant("capture/shared.py", "if any(len(found) > 1 for", "if any(False for", PLACES),
        Mutant("lower/places.py", "and not self._same_out_of(call, leaf, value))", "and False)", PLACES),
        Mutant("capture/inplace.py", 'if name.startswith("__i") and', "if False and", WRITES),
        Mutant("capture/trace.py", '"its data is not allocated yet",', "", PHASES),
        Mutant("lower/captured.py", "numbers[position] = followed", "pass", REACH),
        Mutant("lower/captured.py", '{"dict": {}}, [site.name]', "{}, [site.name]", REACH),
        Mutant(
            "lower/captured.py",
            "return TracedInt(axis.size, known)",
            "return axis.size",
            PLACES,
        ),
        Mutant("lower/captured.py", "self._fixed.add(self._parts[axis])", "pass", REACH),
        Mutant("lower/captured.py", "            _shows_values(graph, node)\n", "            False\n", REACH),
        Mutant("capture/record.py", "self.reads(*_tensors(real_args))", "pass", REACH),
        Mutant("lower/fused.py", "output.masked_fill(~taken.unsqueeze(-1), 0.0)", "output", PLACES),
        Mutant("capture/kept.py", "            module._buffers.update(buffers)\n", "", BACKWARD),
        Mutant(
            "lower/captured.py", 'None if node.op._opname in _WRITES else encoded["dtype"]', 'encoded["dtype"]', REACH
        ),
        Mutant(
            "lower/insert.py", "for last in reversed(range(len(frames))):", "for last in range(len(frames)):", REACH
        ),
        Mutant(
            "lower/insert.py",
            "made = made or self._changed(function)",
            "made = made or (self._changed(function) if function.__name__ in str(self._callees) else function)",
            REACH,
        ),
        Mutant("lower/edits.py", "can = can - other if None in first else can & other", "can = can - other", SIZES),
        Mutant("lower/sizes.py", "return known != other", "return known", SIZES),
        Mutant("lower/sizes.py", ' - (given if factor.form == "sum" else set())', "", SIZES),
        Mutant("lower/source.py", "if not 0 <= index < len(expressions) or any(", "if False and any(", SIZES),
        Mutant("lower/source.py", "last.inner or (last.code, last.instruction)", "None", SIZES),
        Mutant("lower/insert.py", "with_enclosed(frames) if argument else frames", "frames", SIZES),
        Mutant("lower/apply.py", "if part * denominator == size * numerator:", "if True:", SIZES),
        Mutant("lower/source.py", "places.append((name.end_lineno", "places.count((name.end_lineno", REACH),
        Mutant("lower/planning.py", "best = planner.search(inside, ", "best = planner.search(planner.start, ", REACH),
        Mutant(
            "capture/record.py", "written = _on_fakes() and id(tensor) not in self._attributes", "written = True", REACH
        ),
        Mutant("lower/lowering.py", "simulate(plan.ranks, prove)", "prove(FakeGroup(0, plan.ranks))", PHASES),
    ],
    "backward": [
        Mutant("lower/cotangents.py", "_is_continuous(v.dtype)} | graph.watched", "_is_continuous(v.dtype)}", BACKWARD),
        Mutant("capture/record.py", "if k.tensor.requires_grad and k", "if False and k", BACKWARD),
        Mutant("lower/lowering.py", "' watched' * watches(node)", "''", BACKWARD),
        Mutant(
            "lower/cotangents.py", 'if strategy.name == "whole" else 1', 'if strategy.name == "whole" else 0', BACKWARD
        ),
        Mutant("lower/places.py", "{*states} <= {WHOLE, VARIED}", "False", SERVES),
        Mutant("capture/kept.py", "vars(module).update(found)", "pass", BACKWARD),
        Mutant("proof/backward.py", "own_inputs(inputs)", "inputs, {}", BACKWARD),
        Mutant(
            "lower/cotangents.py",
            "        _row(model, {enter: 1.0}, [(mode, -1.0), (found.mode, 1.0)], low=0.0)",
            "        _row(model, {enter: 1.0}, [(mode, -1.0), (found.mode, 1.0)], low=-1.0)",
            BACKWARD,
        ),
        Mutant(
            "lower/cotangents.py",
            "found[ties.value[value]].wanted.add(0)",
            "found[ties.value[value]].wanted.add(1)",
            BACKWARD,
        ),
        Mutant("lower/decision.py", "return VARIED if key in chosen.leaves else WHOLE", "return WHOLE", BACKWARD),
        Mutant("lower/lowering.py", 'gradient="sum" if varied else "own"', 'gradient="own"', BACKWARD),
        Mutant("lower/lowering.py", 'kind=kind, gradient="first"', 'kind=kind, gradient="own"', BACKWARD),
        Mutant("lower/lowering.py", '"shared" if decision', '"own" if decision', zoo_gradients("llama-4")),
        Mutant(
            "lower/places.py",
            "as_it_is = (value in self.read and source == WHOLE) or",
            "as_it_is =",
            BACKWARD,
        ),
        Mutant("proof/program.py", "return [VARIED] if state == WHOLE else []", "return [WHOLE, VARIED]", BACKWARD),
        Mutant("lower/apply.py", "    apply_gradients(model, plan, key)\n", "", BACKWARD),
        Mutant("runtime/sites.py", '("all_reduce", True): "all_reduce",', "", TABLE),
        Mutant("runtime/sites.py", '("all_gather", True): "reduce_scatter"', '("all_gather", True): "keep"', TABLE),
        Mutant("runtime/sites.py", '("take", True): "embed"', '("take", True): "all_gather"', TABLE),
        Mutant("runtime/sites.py", '("enter", True): "all_reduce",', "", TABLE),
        Mutant("runtime/layout.py", "stop - start).zero_()", "stop - start)", COTANGENTS),
        Mutant("runtime/cotangents.py", "total += x", "pass", COTANGENTS),
        Mutant("runtime/cotangents.py", "torch.promote_types(x.dtype, torch.float32)", "x.dtype", COTANGENTS),
        Mutant(
            "proof/gradients.py",
            "whole.items()}\n        found",
            "whole.items() if 'slope' not in name}\n        found",
            BACKWARD,
        ),
        Mutant("training.py", "return part if rank == 0 else part.new_empty(0)", "return part", TRAINING),
        Mutant("training.py", "return part if taken is None else part[~taken]", "return part", TRAINING),
        Mutant("training.py", "taken = shared if taken is None else taken | shared", "taken = shared", TRAINING),
        Mutant(
            "training.py", "total = group.all_reduce_max(together", "total = group.all_reduce_sum(together", TRAINING
        ),
        Mutant("lower/apply.py", "slice(low, low + b - a) for", "slice(a, b) for", TRAINING),
        Mutant("lower/planning.py", "cotangents=restored_cotangents(decision, plan)", "cotangents=None", BACKWARD),
        Mutant(
            "proof/verify.py",
            "elif decision.cotangents is not None and given.gradient != wanted.gradient:",
            "elif False:",
            BACKWARD,
        ),
        Mutant("lower/reads.py", "inputs <= found | fixed and ", "", EXPORT),
        Mutant("lower/reads.py", "if alone else {on_parts}", "if False else {on_parts}", EXPORT),
        Mutant("export.py", 'if styles.get(module) not in ("colwise", "colwise_gather_output"):', "if False:", EXPORT),
        Mutant("proof/gradients.py", "if observed > planned + slack or", "if", BACKWARD),
    ],
    "proof": [
        Mutant(
            "proof/gradients.py",
            "max(floor, bounds.get(name, 0.0) / EXACT_TOLERANCE)",
            "floor",
            ("tests/proof/test_gradients.py", "-k", "cancel"),
        ),
        Mutant(
            "proof/gradients.py",
            "if any(error > EXACT_TOLERANCE * floors[name] for name, error in errors[0].items()):",
            "if False:",
            ("tests/proof/test_gradients.py", "-k", "cancel"),
        ),
        Mutant(
            "proof/program.py",
            'if kind == "all_reduce" and state in (PARTIAL, "scaled"):',
            'if kind == "all_reduce":',
            BROKEN,
        ),
        Mutant("proof/program.py", "if (value, wanted) not in self.whole_of[given]:", "if False:", BROKEN),
        Mutant(
            "proof/program.py",
            "if self.whole.values[value].constant != local.values[given].constant:",
            "if False:",
            REACH,
        ),
        Mutant(
            "proof/program.py",
            "if name not in idle and not _same(left, given[name], self.rounding):",
            "if False:",
            BROKEN,
        ),
        Mutant("proof/program.py", "if (value, WHOLE) not in self.whole_of[given.get(path, -1)]:", "if False:", BROKEN),
        Mutant(
            "proof/verify.py",
            "(given.held, given.ranges) != (wanted.held, wanted.ranges)",
            "given.held != wanted.held",
            BROKEN,
        ),
        Mutant(
            "proof/verify.py",
            "(given.held, given.ranges) != (wanted.held, wanted.ranges)",
            "given.ranges != wanted.ranges",
            BROKEN,
        ),
        Mutant("proof/verify.py", "abs(planned - observed) > 1e-6", "abs(planned - observed) > 1e6", BROKEN),
        Mutant(
            "proof/numbers.py",
            "return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE and self.choices.equal",
            "return self.exact_error <= EXACT_TOLERANCE and self.choices.equal",
            NUMBERS,
        ),
        Mutant(
            "proof/numbers.py",
            "return self.max_error <= self.bound and self.exact_error <= EXACT_TOLERANCE and self.choices.equal",
            "return self.max_error <= self.bound and self.choices.equal",
            NUMBERS,
        ),
        Mutant("proof/numbers.py", "error <= CONTROL_FACTOR * bound", "error <= bound", NUMBERS),
        Mutant("proof/delivered.py", "self.missing <= CONTROL_FACTOR", "self.missing < CONTROL_FACTOR", DELIVERED),
        Mutant("proof/delivered.py", "return self.noticed or self.exercised", "return True", DELIVERED),
        Mutant("proof/delivered.py", "for at, scale in scales.items() if scale}", "for at in scales}", DELIVERED),
        Mutant("proof/gradients.py", "for name, scale in scales.items() if scale}", "for name in scales}", RETURNED),
        Mutant("proof/delivered.py", "and self.exact_missing <=", "and 0 * self.exact_missing <=", DELIVERED),
        Mutant(
            "proof/delivered.py", "without = {name: wide.ranks(drop=sites)", "without = {name: wide.ranks()", DELIVERED
        ),
        Mutant("proof/delivered.py", "if placed(plan).issuperset(sites)", "if True", DELIVERED),
        Mutant("proof/cotangents.py", 'if twin.kind != "reduce_scatter":', "if True:", RETURNED),
        Mutant("proof/cotangents.py", "passed = value.clone()", "passed = value", RETURNED),
        Mutant("proof/gradients.py", "and self.exact_error <= EXACT_TOLERANCE and delivered", "and True", RETURNED),
        Mutant("proof/numbers.py", '"native_layer_norm_backward": _lengths_of_norm,', "", RETURNED),
        Mutant("proof/verify.py", "and all(delivery.equal for delivery in deliveries)", "", DELIVERED),
        Mutant("lower/places.py", "+ len(inside) + returned > 1", "> 1", PLACES),
        Mutant("lower/places.py", "if self._alike_at(*found, value)]", "if True]", PLACES),
        Mutant(
            "lower/places.py", "if alike and (self._at_passing(", "if alike and (False and self._at_passing(", PLACES
        ),
        Mutant("capture/trace.py", "if set(made) - given.keys() else []", "if made else []", PHASES),
        Mutant("lower/source.py", "return [] if isinstance(inner, ast.Constant)", "return [] if False", PLACES),
        Mutant("proof/numbers.py", "eps / 2 * length**0.5", "eps / 2 * length", NUMBERS),
        Mutant("proof/numbers.py", "if gap.isnan().any():", "if False:", NUMBERS),
        Mutant(
            "proof/numbers.py",
            "perturbed(lambda: run_pinned(model, inputs, only, whole.recorded))",
            "perturbed(lambda: run_pinned(model, inputs, only, {}))",
            CHOICES,
        ),
        Mutant(
            "proof/numbers.py",
            "run = run_pinned(part, inputs, only, recorded)",
            "run = run_pinned(part, inputs, only, {})",
            CHOICES,
        ),
        Mutant("proof/numbers.py", "run.outputs | run.rows, relative", "run.outputs | rows, relative", CHOICES),
        Mutant("proof/choices.py", "own.copy_(choice.indices)", "pass", CHOICES),
        Mutant(
            "proof/choices.py",
            ".copy_(rows.gather(-1, choice.indices))",
            ".copy_(choice.rows.gather(-1, choice.indices))",
            CHOICES,
        ),
        Mutant("proof/choices.py", 'if given["self"].is_floating_point():', "if True:", CHOICES),
        Mutant("proof/choices.py", "            scores = -scores", "            pass", CHOICES),
        Mutant("proof/choices.py", "return self.max_error <= self.bound", "return True", CHOICES),
        Mutant("proof/processes.py", "if any(error > choices.bounds[name]", "if any(False", CHOICES),
        Mutant(
            "proof/numbers.py",
            "SAFETY, EXACT_TOLERANCE, CONTROL_FACTOR = 3, 8.0,",
            "SAFETY, EXACT_TOLERANCE, CONTROL_FACTOR = 3, 0.01,",
            BOUND,
        ),
    ],
    "guard": [
        Mutant("lower/guard.py", "        if call in self.proved:\n", "        if True:\n", GUARD),
        Mutant(
            "lower/guard.py",
            "        if reason:\n            self.refused",
            "        if True:\n            self.refused",
            GUARD,
        ),
        Mutant("lower/guard.py", "        if random:", "        if False:", GUARD),
        Mutant("capture/randomness.py", "return not switches or all(switches)", "return True", GUARD),
        Mutant("proof/inference.py", "if _ranges(parts, value, state) == plan.ranges", "", GUARD),
        Mutant(
            "proof/inference.py",
            "return layouts[0].dim == layouts[1].dim % len(shape) and _same_spread(*layouts, shape[layouts[0].dim])",
            "return True",
            GUARD,
        ),
        Mutant(
            "capture/calls.py", "if type(value) not in _PLAIN or usual.get(name, _ABSENT) != value:", "if True:", GUARD
        ),
        Mutant("capture/calls.py", "parts.sort()", "pass", GUARD),
    ],
    "memory": [
        Mutant(
            "memory/formulae.py",
            "return s * b * h * (whole + split / t) + scores",
            "return s * b * h * (whole + split) + scores",
            FORMULAE,
        ),
        Mutant(
            "memory/formulae.py",
            'Recipe("bf16", "mixed precision", 2, 2, 12)',
            'Recipe("bf16", "mixed precision", 2, 2, 8)',
            FORMULAE,
        ),
        Mutant("memory/contents.py", "return min(stages - stage, rows)", "return min(stages, rows)", FORMULAE),
        Mutant(
            "memory/contents.py",
            "heads = math.ceil(self.shape.kv_heads / split)",
            "heads = self.shape.kv_heads / split",
            FORMULAE,
        ),
        Mutant("memory/fit.py", "else (middle + 1, high)", "else (middle, high - 1)", FORMULAE),
        Mutant(
            "memory/measured.py",
            'return (whole if method == "data" or ranks == 1 else',
            "return (whole if True else",
            MEASURED,
        ),
        Mutant(
            "memory/measured.py",
            "own = [size.elements // size.length * math.ceil(size.length / ranks)",
            "own = [size.elements / ranks",
            MEASURED,
        ),
        Mutant(
            "memory/measured.py",
            "piece.entered if full and piece.is_block else",
            "piece.entered if full else",
            MEASURED,
        ),
        Mutant("memory/meter.py", "if _key(tensor) not in self._own:", "if True:", MEASURED),
        Mutant(
            "memory/meter.py",
            "alive += 0 if event.storage in skipped else event.bytes",
            "alive += max(event.bytes, 0)",
            MEASURED,
        ),
        Mutant("memory/model.py", "return wanted if found.is_floating_point else found", "return found", MEASURED),
    ],
    "planning time": [
        Mutant("capture/shapes.py", "parts += (shared, tree.shape", "parts += (0, tree.shape", SHAPES),
        Mutant("capture/shapes.py", "known = tensor.constant is not None or ", "known = ", SHAPES),
        Mutant("capture/shapes.py", "if look.source != _FRESH:", "if False:", SHAPES),
        Mutant("solve/linear.py", "reduced > above + SURE", "reduced > -1.0", BRUTE_FORCE),
        Mutant("solve/problem.py", "problem.made.get((node, name), 0.0)", "0.0", BRUTE_FORCE),
        Mutant("lower/decision.py", "for s in self.used]", "for s in ()]", ROUNDS),
        Mutant("lower/lowering.py", "(wanted[rank], shapes,", "(shapes,", ROUNDS),
        Mutant("lower/sizes.py", "of_kind[kind] for kind", "shares[0] for kind", SIZES),
        Mutant("lower/edits.py", "edits[kind] for kind", "edits[0] for kind", ("tests/lower/test_edits.py",)),
        Mutant("solve/states.py", "ranks_of[lengths] * prod(", "prod(", BRUTE_FORCE),
        Mutant("runtime/layout.py", "holders - set(end[a])", "holders", ("tests/runtime/test_layout.py",)),
        Mutant("solve/problem.py", "NAMED * crc32(repr(key).encode())", "NAMED * 0", TOLD_APART),
        Mutant("solve/problem.py", '1.0 / shared[key[2]] if key[0] == "hold" else 0.0', "0.0", TOLD_APART),
        Mutant("solve/linear.py", 'self.setOptionValue("output_flag", False)', "super().enableCallbacks()", APART),
        Mutant("solve/linear.py", "above = max(0.0, (most - least) / _scale(costs))", "above = 0.0", BRUTE_FORCE),
        Mutant("lower/lowering.py", "if captured.fake and walk.follow", "if False and walk.follow", ROUNDS),
        Mutant("proof/program.py", "if shape == began:", "if False:", ROUNDS),
        Mutant(
            "capture/record.py", 'constant = name == "detach" and', 'constant = name == "detach" or False and', ROUNDS
        ),
        Mutant("lower/planning.py", "[] if backward is not None and backward.proved else", "[] if False else", ROUNDS),
        Mutant("lower/blame.py", "(mismatch.argument or mismatch.raised is not None)", "mismatch.argument", ROUNDS),
    ],
    "indices of the inputs": [
        Mutant("solve/following.py", "self.derived.laws[node.index].rewrites or not ends", "not ends", FOLLOWING),
        Mutant("solve/following.py", "or not ends.isdisjoint(self.leaves) or", "or", FOLLOWING),
        Mutant(
            "solve/following.py",
            "or self._matrices(node):\n            return",
            "or False:\n            return",
            FOLLOWING,
        ),
        Mutant("solve/following.py", "alone = len(dims) == 1 and", "alone = len(dims) > 0 and", FOLLOWING),
        Mutant("solve/following.py", "dim].size % num_ranks == 0", "dim].size % num_ranks >= 0", FOLLOWING),
        Mutant("solve/following.py", "(wanted or not i.size % num_ranks)", "True", FOLLOWING),
        Mutant("solve/following.py", ">= COLLECTIVE_BYTES", ">= 0", FOLLOWING),
        Mutant("solve/following.py", "if wanted is None and len(_lengths(derived)) > 1:", "if False:", FOLLOWING),
        Mutant("solve/following.py", "if i.leaves.isdisjoint(fixed) and", "if", FOLLOWING),
        Mutant(
            "solve/following.py",
            "if axis.size > 1 else ())\n                yield",
            "if True else ())\n                yield",
            FOLLOWING,
        ),
        Mutant("solve/states.py", "or not index.known:", "or False:", FOLLOWING),
        Mutant(
            "solve/build.py", "made = size / (search.num_ranks if option.split else 1)", "made = size / 1", FOLLOWING
        ),
        Mutant(
            "solve/build.py",
            'if source == PARTIAL and target[0] == "S" and search',
            "if False and search",
            FOLLOWING,
        ),
        Mutant("solve/build.py", 'None if search.splits[source[2:]].follows else ("pad",)', '("pad",)', FOLLOWING),
        Mutant(
            "lower/places.py",
            "return any((other, at) in self.measured",
            "return any(False and (other, at) in self.measured",
            FOLLOWING,
        ),
        Mutant("lower/edits.py", 'if state[0] != "I" and not (', 'if state[0] != "I" or (', FOLLOWING),
        Mutant("lower/traffic.py", "or is_whole(decision.search, value.index, source):", ":", FOLLOWING),
        Mutant("proof/program.py", "    uncut = VARIED", "    uncut = WHOLE", FOLLOWING),
        Mutant(
            "runtime/sites.py",
            'return Site(name, "all_reduce", partial=True)',
            'return Site(name, "all_reduce")',
            FOLLOWING,
        ),
        Mutant(
            "runtime/sites.py",
            "    if site.partial:\n        return None",
            "    if False:\n        return None",
            FOLLOWING,
        ),
        Mutant("runtime/sites.py", '("reduce_scatter", False): "all_gather",', "", FOLLOWING),
        Mutant("runtime/following.py", "is_cut = length % self._num_ranks == 0", "is_cut = True", FOLLOWING),
        Mutant(
            "runtime/following.py",
            "self._seen[self._last[0]].add(is_cut)",
            "self._seen[self._last[0]] = {is_cut}",
            FOLLOWING,
        ),
        Mutant("runtime/following.py", "if length == self._last[0] else set()", "if True else set()", FOLLOWING),
        Mutant("runtime/following.py", "self._seen.get(length, set()) if again else", "set() if again else", FOLLOWING),
        Mutant(
            "runtime/turns.py",
            "torch.stack(self.all_gather(part, [part.shape] * self.size, site), 1)",
            "torch.stack(self.all_gather(part, [part.shape] * self.size, site), 0)",
            FOLLOWING,
        ),
        Mutant("runtime/shared/wire.py", "view[:, own] for view in views", "view[:, 0] for view in views", TURNS),
        Mutant(
            "runtime/shared/wire.py",
            "whole[a : a + rows, rank].copy_(view)",
            "whole[a : a + rows, 0].copy_(view)",
            TURNS,
        ),
        Mutant("runtime/shared/wire.py", "0 < x[0].nbytes <= self._board.slot_bytes", "x[0].nbytes > 0", TURNS),
        Mutant("runtime/layout.py", "held == ((r, r + 1),) for r", "len(held) == 1 for r", TURNS),
        Mutant(
            "axes/rules/normalization.py",
            "if d == dim or not view.axes.unify(dims[d], axis)]\n    output",
            "if d == dim]\n    output",
            ("tests/axes/test_laws.py", "-k", "diff"),
        ),
        Mutant(
            "lower/planning.py",
            "split.follows and any(fnmatch(n, pattern)",
            "split.follows and any(False and fnmatch(n, pattern)",
            FOLLOWING,
        ),
        Mutant("lower/planning.py", "following=plan.following)\n    problem", "following=())\n    problem", FOLLOWING),
        Mutant("lower/paths.py", "following=plan.following", "following=()", FOLLOWING),
        Mutant("proof/inference.py", '(("take", WHOLE), ("reduce_scatter", PARTIAL))', '(("take", WHOLE),)', FOLLOWING),
        Mutant(
            "proof/numbers.py",
            "site.name.removesuffix(WHOLE_LENGTH) not in depends or site.name in called",
            "site.name not in depends",
            FOLLOWING,
        ),
    ],
    "rules and solving": [
        Mutant(
            "solve/states.py", 'output = f"M:{split.name}" if law.mean else PARTIAL', "output = PARTIAL", zoo("olmo2-4")
        ),
        Mutant("solve/policy.py", "SMALL_FRACTION = 0.01", "SMALL_FRACTION = 0.6", zoo("conv net-2", "bert-2")),
        Mutant(
            "solve/policy.py",
            "if forced is None or forced - now >= max(prices[name], usual * real[name]) > 0:",
            "if True:",
            zoo("mamba-3", "olmo2-4"),
        ),
        Mutant(
            "lower/cotangents.py",
            "dtype.is_floating_point or dtype.is_complex",
            "dtype.is_floating_point",
            ("tests/proof/test_gradients.py", "-k", "complex"),
        ),
        Mutant(
            "solve/policy.py",
            "if forced is None or forced - now >= max(prices[name], usual * real[name]) > 0:",
            "if forced is None:",
            zoo("llama 1 kv-4", "falcon, multi query-3"),
        ),
        Mutant("solve/policy.py", "max(prices[name], usual * real[name])", "prices[name]", POLICY),
        Mutant("solve/policy.py", "if name not in split}", "}", POLICY),
        Mutant("solve/policy.py", "and not _is_minor(n, doubtful, must)}", "}", POLICY),
        Mutant("axes/expression.py", "and self._still_apart(mark):", ":", ("tests/axes/test_expression.py",)),
        Mutant("solve/ties.py", "return apart and (", "return (", TIES),
        Mutant("solve/ties.py", "(bool(set.intersection(*map(set, usable))) or not all(usable))", "True", TIES),
        Mutant(
            "runtime/costs.py",
            "return 2 * (num_ranks - 1) * size_bytes / num_ranks",
            "return (num_ranks - 1) * size_bytes / num_ranks",
            ("tests/runtime/test_costs.py",),
        ),
        Mutant(
            "runtime/lookup.py",
            "local = torch.where((ids >= a) & (ids < b), ids - a + start, local)",
            "local = torch.where((ids >= a) & (ids < b), ids - a, local)",
            PLACES,
        ),
        Mutant("runtime/lookup.py", "start += b - a", "pass", PLACES),
        Mutant(
            "runtime/decode.py",
            'return int(token if group is None else group.broadcast(token, 0, "sampled token"))',
            "return int(token)",
            ("tests/models_zoo/test_generate.py", "-k", "gpt2"),
        ),
        Mutant("runtime/lookup.py", "owned |= (ids >= a) & (ids < b)", "owned |= (ids >= a) & (ids <= b)", PLACES),
        Mutant("report/page/render.py", 'text.replace("<", "\\\\u003c")', "text", PAGE),
        Mutant("report/page/moves.py", "block in self._alone or ", "", PAGE),
        Mutant("report/page/layout.py", "p.held, p.ranges, keys", "p.held, keys", PAGE),
        Mutant("report/page/page.js", 'key !== "" && element.dataset.axis === key', 'key !== ""', BROWSER),
        Mutant("report/page/page.js", "element.hidden = !hit;", "element.hidden = false;", BROWSER),
        Mutant("report/page/page.css", ".scroll { overflow-x: auto; }", "", BROWSER),
        Mutant(
            "report/drawing.py", "width / max(matrix.cols, 1)", "width / len(cols)", ("tests/report/test_drawing.py",)
        ),
    ],
    "lesson": [
        Mutant("lesson/setting.py", "if inputs not in legal:", "if False:", LESSON),
        Mutant(
            "lesson/setting.py", "if partial and all(isinstance(value, str) for value in partial):", "if False:", LESSON
        ),
        Mutant("lesson/setting.py", "and len(shapes[name]) >= 2", "", LESSON),
        Mutant("lesson/ways.py", "if faults <= 1:", "if faults <= 2:", LESSON),
        Mutant("lesson/ways.py", "least[:2] <= right[:2]", "least[:2] < right[:2]", LESSON),
        Mutant("lesson/ways.py", "[:MOST_TIES]", "[:1]", LESSON),
        Mutant("lesson/ways.py", "state if states.get(name, state) == state else WHOLE", "state", LESSON),
        Mutant(
            "lesson/ways.py",
            "round(self.bytes, 3), self.collectives, self.slices",
            "round(self.bytes, 3), 0, 0",
            LESSON,
        ),
        Mutant(
            "lesson/words.py",
            "int(bool(run.fault)), int(opened), whole, 0.0",
            "int(bool(run.fault)), 0, whole, 0.0",
            LESSON,
        ),
        Mutant(
            "lesson/words.py", "int(bool(run.fault)), int(opened), whole, 0.0", "0, int(opened), whole, 0.0", LESSON
        ),
        Mutant("lesson/words.py", 'if any(state[:1] == "S" for state in came):', "if False:", LESSON),
        Mutant("lesson/judge.py", "if not fault and state_after(way[-1]) != WHOLE:", "if False:", LESSON),
        Mutant("lesson/judge.py", "whole if rank == 0 else torch.zeros_like(whole)", "whole", LESSON),
        Mutant("lesson/judge.py", "got = sum(found[1:], start=found[0])", "got = found[0]", LESSON),
        Mutant("lesson/reason.py", "times = other_factor / factor", "times = factor / other_factor", LESSON),
        Mutant("lesson/formula.py", "if len(self.ops) == MOST_OPS:", "if False:", LESSON),
        Mutant("lesson/exercise.py", "if before and gpu not in before:", "if False:", LEARNER),
        Mutant("lesson/exercise.py", 'kind == "all_reduce":', 'kind == "none":', LEARNER),
        Mutant("lesson/exercise.py", "_cut(pieces, tensor) if word in _CUTS else pieces", "pieces", LEARNER),
        Mutant("lesson/exercise.py", "if len(gpus) == 1:", "if False:", LEARNER),
    ],
    "shared memory": [
        Mutant("runtime/shared/board.py", "self.side = 1 - side", "self.side = side", SHARED),
        Mutant(
            "runtime/shared/board.py",
            "if not self._meet(signature, address,",
            "if self._meet(signature, address,",
            SHARED,
        ),
        Mutant(
            "runtime/shared/board.py", "(max_over_ranks, torch.int64): 5", "(max_over_ranks, torch.int64): 3", SHARED
        ),
        Mutant(
            "runtime/shared/board.py", "if self._native is None or self.size == 1", "if self._native is None", SHARED
        ),
        Mutant("runtime/shared/wire.py", "if how is None or x.nbytes > board.slot_bytes:", "if how is None:", SHARED),
        Mutant("runtime/groups.py", "and x.is_cpu and x.is_contiguous():", "and x.is_cpu:", SHARED),
        Mutant("runtime/groups.py", "key = (kind, site, x.dtype, x.shape)", "key = (site, x.dtype, x.shape)", SHARED),
        *(
            Mutant("runtime/definition.py", f"        or {condition}\n", "", ("tests/runtime/test_collectives.py",))
            for condition in (
                "type(x) is not Tensor",
                "(is_grad_enabled() and x.requires_grad)",
                "_len_torch_dispatch_stack() > 0",
                "_len_torch_function_stack() > 0",
                "peek_interpreter_stack() is not None",
                "_get_tracing_state() is not None",
                "forward_ad._current_level >= 0",
                "profiler._is_profiler_enabled",
            )
        ),
        Mutant(
            "runtime/definition.py",
            "is_dynamo_compiling()\n        or type",
            "type",
            ("tests/runtime/test_collectives.py",),
        ),
        Mutant("runtime/aligned.py", "-room.data_ptr() % mmap.PAGESIZE", "0", ("tests/runtime/test_aligned.py",)),
        Mutant("runtime/shared/board.py", "if found and self._all_digests[side] !=", "if b'' ==", SHARED),
        Mutant("runtime/shared/board.py", 'if allowed != "max":', "if False:", SHARED),
        Mutant("runtime/shared/board.py", "if found & _RING:", "if False:", SHARED),
        Mutant("runtime/shared/board.py", "if found & _ABSENT:", "if False:", SHARED),
        Mutant("runtime/shared/board.py", "for _ in range(self.size - 1):", "for _ in range(1):", SHARED),
        Mutant("runtime/shared/board.py", "if r != rank] for s in (0, 1)", "if r != rank] for s in (0, 0)", SHARED),
        Mutant("runtime/shared/board.py", "turns[rank] != self._turn]", "turns[rank] != 0]", SHARED),
        Mutant("runtime/shared/board.py", "if gone or waited > self._timeout_s:", "if gone:", SHARED),
        Mutant("runtime/shared/board.py", "if rank in late]:", "if False]:", SHARED),
        Mutant("runtime/shared/board.py", "self._left = error", "pass", SHARED),
        Mutant("runtime/shared/segment.py", "return True\n", "return False\n", SHARED),
        Mutant("runtime/shared/segment.py", "self._path.unlink(missing_ok=True)", "pass", SHARED),
        Mutant("runtime/shared/segment.py", "sem_unlink(self._bell_name(rank, which))", "pass", SHARED),
        Mutant("runtime/shared/connect.py", "if segment is None or not all(joined):", "if segment is None:", SHARED),
        Mutant("runtime/shared/connect.py", "made.forget_names()", "pass", SHARED),
        Mutant(
            "runtime/shared/connect.py",
            "tell, timeout_s)\n    if near",
            "tell, timeout_s)\n    if True or near",
            SHARED,
        ),
        Mutant("runtime/shared/wire.py", "if max(sizes) > self._board.slot_bytes:", "if False:", SHARED),
        Mutant("runtime/shared/wire.py", "max(whole.numel() for whole in wholes), step", "flat.numel(), step", SHARED),
        Mutant("runtime/shared/wire.py", "steps = max(steps, *(", "steps = max(steps, *(0 * ", SHARED),
        Mutant("runtime/shared/wire.py", "return received.clone()", "return received", SHARED),
        Mutant("runtime/shared/wire.py", "if board.rank == src else x.new_empty(0)", "", SHARED),
        Mutant("runtime/shared/spanning.py", "x.float() if x.dtype in LOW_PRECISION else x", "x", SHARED),
        Mutant("runtime/shared/spanning.py", "total = self._far.reduce(total", "self._far.reduce(total", SHARED),
        Mutant("runtime/sums.py", "if low else torch.add", "if False else torch.add", SHARED),
        Mutant("runtime/shared/backend.py", "x if opts.rootRank == self._own else x.clone()", "x", LIBRARY),
        Mutant("runtime/shared/backend.py", "if self._own == root else [nothing]", "if True else [nothing]", LIBRARY),
        Mutant("runtime/shared/backend.py", ".div(len(parts))", "", LIBRARY),
    ],
}
