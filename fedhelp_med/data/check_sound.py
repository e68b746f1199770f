"""Whether training on checked datalists would be sound: what only shows in all images together."""

from collections import Counter
from collections.abc import Iterator, Sequence

from fedhelp_med.data.check import ERROR, WARNING, ImageFacts, Problem, SiteCheck
from fedhelp_med.data.datalist import SPLITS

SKEW = 20  # times as many images of the largest class as of the smallest: worth a word
COARSE = 3.0  # times the finest spacing: worth a word


def all_problems(sites: Sequence[SiteCheck]) -> list[Problem]:
    """Return the problems of the files and of the sites, errors first."""
    found = [problem for site in sites for problem in site.problems]
    for site in sites:
        found += _labels(site)
        found += _alike(site)
        found += _channels(site)
    found += _classes(sites)
    found += _orientations(sites)
    found += _duplicates([image for site in sites for image in site.images])
    return sorted(found, key=lambda problem: (problem.level != ERROR, problem.site, problem.kind, problem.path))


def balance(site: SiteCheck, split: str) -> Counter[int]:
    """Count a split's images by class; with masks, the images that show a class."""
    counts: Counter[int] = Counter()
    for image in site.images:
        if image.split == split:
            counts.update([image.label] if isinstance(image.label, int) else image.mask_values or ())
    return counts


def _labels(site: SiteCheck) -> Iterator[Problem]:
    for split in SPLITS:
        images = [image for image in site.images if image.split == split]
        bare = [image for image in images if image.label is None]
        if bare and len(bare) < len(images):
            for image in bare:
                yield Problem(ERROR, site.name, "no label", image.path, "an image without label among labelled ones")
        elif bare:
            reason = "no image has a label: usable as a public set only"
            yield Problem(WARNING, site.name, "no label", split, reason)
    training = [image for image in site.images if image.split == "training"]
    if not training:
        yield Problem(ERROR, site.name, "training", "training", "no image that can be read; nothing to train on")
        return
    if all(image.label is None for image in training):
        return
    yield from _balance(site)


def _balance(site: SiteCheck) -> Iterator[Problem]:
    counts = balance(site, "training")
    names = site.classes or tuple(str(index) for index in range(max(counts, default=0) + 1))
    for index, name in enumerate(names):
        if not counts[index]:
            reason = f"no training image of class {index} ({name}); add some, or take the class out of every site"
            yield Problem(ERROR, site.name, "class missing", "training", reason)
        for split in ("validation", "testing"):
            if any(image.split == split for image in site.images) and not balance(site, split)[index]:
                reason = f"no image of class {index} ({name}): its metrics will miss this class"
                yield Problem(WARNING, site.name, "class missing", split, reason)
    if len(names) < 2:
        yield Problem(ERROR, site.name, "classes", "training", "one class only: there is nothing to tell apart")
    present = [counts[index] for index in range(len(names)) if counts[index]]
    is_classification = any(isinstance(image.label, int) for image in site.images)
    if is_classification and present and max(present) > SKEW * min(present):
        reason = f"{max(present)} images of the largest class, {min(present)} of the smallest; weigh or sample them"
        yield Problem(WARNING, site.name, "balance", "training", reason)


def _alike(site: SiteCheck) -> Iterator[Problem]:
    axes = Counter(len(image.shape) for image in site.images)
    if len(axes) > 1:
        usual = axes.most_common(1)[0][0]
        for image in site.images:
            if len(image.shape) != usual:
                reason = f"{len(image.shape)} axes {image.shape}, most images have {usual}; leave it out"
                yield Problem(ERROR, site.name, "axes", image.path, reason)
    orientations = Counter(image.orientation for image in site.images if image.orientation)
    if len(orientations) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in orientations.most_common(4))
        reason = f"several orientations ({found}); put Orientationd after the loader"
        yield Problem(WARNING, site.name, "orientation", "all", reason)
    finest = [min(image.spacing) for image in site.images if image.spacing and image.orientation]
    if finest and max(finest) > COARSE * min(finest):
        reason = f"spacings from {min(finest):g} to {max(finest):g} mm; put Spacingd after the loader"
        yield Problem(WARNING, site.name, "spacing", "all", reason)


def _channels(site: SiteCheck) -> Iterator[Problem]:
    """A network takes one number of channels; the slices of a volume are the channels of a 2-D network."""
    if site.public:
        return  # brought to the sites' number of channels, whatever they have
    counts: dict[bool, Counter[int]] = {True: Counter(), False: Counter()}
    seen = []
    for image in site.images:
        slices = not image.channels and len(image.shape) == 3
        if image.channels or (slices and site.spatial_dims != 3):
            seen.append((image, slices))
            counts[slices][image.shape[-1]] += 1
    for image, slices in seen:
        usual = counts[slices].most_common(1)[0][0]
        if image.shape[-1] != usual and (not slices or site.spatial_dims == 2):
            what = "slices, which are the channels of a 2-D network" if slices else "channels"
            reason = f"{image.shape[-1]} {what}; most images have {usual}: bring all to one number, or leave it out"
            yield Problem(ERROR, site.name, "channels", image.path, reason)
    volumes = counts[True]
    if len(volumes) > 1 and site.spatial_dims is None and all(image.mask_values is None for image in site.images):
        reason = (
            f"volumes of {min(volumes)} to {max(volumes)} slices: right for a network with spatial_dims 3; a 2-D one, "
            "the default, takes slices as channels and needs the same number in all"
        )
        yield Problem(WARNING, site.name, "channels", "all", reason)


def _classes(sites: Sequence[SiteCheck]) -> Iterator[Problem]:
    named = sorted((site for site in sites if site.classes), key=lambda site: site.public)
    for site in named[1:]:
        if site.classes != named[0].classes:
            reason = f"classes {site.classes}, but {named[0].name} has {named[0].classes}"
            if site.public:  # what is known of other classes is learned from under some presets
                reason += ": of other classes nothing is learned in the preset recommended"
                yield Problem(WARNING, site.name, "classes", str(site.datalist), reason)
            else:
                yield Problem(ERROR, site.name, "classes", str(site.datalist), f"{reason}; declare the same everywhere")


def _orientations(sites: Sequence[SiteCheck]) -> Iterator[Problem]:
    """NIfTI files and DICOM series of the same kind of scan often reach a network as mirror images of each other."""
    usual = {}
    for site in sites:
        found = Counter(image.orientation for image in site.images if image.orientation)
        if found:
            usual[site.name] = found.most_common(1)[0][0]
    first = next(iter(usual), None)
    for name, orientation in usual.items():
        if first is not None and orientation != usual[first]:
            reason = f"{orientation}, but {first} has {usual[first]}; put Orientationd after the loader"
            yield Problem(WARNING, name, "orientation of sites", "all", reason)


def _duplicates(images: Sequence[ImageFacts]) -> Iterator[Problem]:
    """The same pixels twice: within a split a weight, across splits a leak, across sites a patient known twice."""
    first: dict[str, ImageFacts] = {}
    for image in images:
        other = first.setdefault(image.digest, image)
        if other is image:
            continue
        if other.site != image.site:
            leak = "training" in (other.split, image.split) and other.split != image.split
            reason = f"the same pixels as {other.path} of {other.site} ({other.split}); keep one"
            yield Problem(ERROR if leak else WARNING, image.site, "duplicate", image.path, reason)
        elif other.split != image.split:
            reason = f"the same pixels as {other.path} in {other.split}: a leak between the splits; keep one"
            yield Problem(ERROR, image.site, "duplicate", image.path, reason)
        else:
            differs = other.label != image.label and isinstance(image.label, int)
            reason = f"the same pixels as {other.path}" + (" with another label" if differs else "") + "; keep one"
            yield Problem(ERROR if differs else WARNING, image.site, "duplicate", image.path, reason)
