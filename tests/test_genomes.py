"""Haplotypes, and the files they are read from."""

import gzip
import logging
import os
import struct
import threading
import zlib

import msprime
import numpy as np
import pytest

import definetti_np
from definetti_np import GenomeFileError, Haplotypes, read_haplotypes
from definetti_np.genomes import intervals
from definetti_np.genomes.bgzip import END_OF_BGZIP
from definetti_np.genomes.index import check_blocks
from definetti_np.genomes.records import Region

HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr1,length=1000>\n##contig=<ID=chr2>\n"
FORMAT = '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n##FILTER=<ID=q10,Description="Low">\n'
FORMAT += '##INFO=<ID=AA,Number=1,Type=String,Description="Ancestral">\n'
FORMAT += '##FORMAT=<ID=DP,Number=1,Type=Integer,Description="Depth">\n'


def vcf(*records, samples="a b c", header=HEADER):
    """The text of a VCF; a record is "CHROM POS REF ALT GT GT ...", or with FILTER, INFO and FORMAT after ALT."""
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *samples.split()]
    lines = ["\t".join(columns)]
    for record in records:
        chrom, pos, ref, alt, *rest = record.split()
        if len(rest) <= len(samples.split()):
            rest = ["PASS", ".", "GT", *rest]
        lines.append("\t".join([chrom, pos, ".", ref, alt, ".", *rest]))
    return header + FORMAT + "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.vcf"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def bgzip(text, block=300):
    """Compress as bgzip does: small gzip members that say their size, and an empty one at the end."""
    out = b""
    for start in range(0, len(text), block):
        compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
        part = text[start : start + block]
        data = compressor.compress(part) + compressor.flush()
        head = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(data) + 25)
        out += head + data + struct.pack("<II", zlib.crc32(part), len(part))
    return out + END_OF_BGZIP


@pytest.fixture(scope="module")
def trees():
    ancestry = msprime.sim_ancestry(
        6, population_size=1e4, sequence_length=100_000, recombination_rate=1e-8, random_seed=1
    )
    return msprime.sim_mutations(ancestry, rate=2e-8, random_seed=2)


@pytest.fixture(scope="module")
def of_trees(trees):
    return Haplotypes.from_tree_sequence(trees)


# Haplotypes


def test_from_tree_sequence__is_its_genotype_matrix(trees, of_trees):
    genotypes = trees.genotype_matrix()
    kept = genotypes.max(axis=1) < 2
    np.testing.assert_array_equal(of_trees.alleles, genotypes[kept])
    np.testing.assert_array_equal(of_trees.positions, trees.tables.sites.position[kept])
    assert of_trees.samples == tuple(f"tsk_{i}" for i in range(6))
    assert of_trees.ploidy.tolist() == [2] * 6
    assert of_trees.is_polarised
    assert of_trees.is_phased
    assert (of_trees.start, of_trees.stop, of_trees.length) == (0, 100_000, 100_000)


def test_from_tree_sequence__leaves_out_sites_of_more_than_two_alleles_and_says_so():
    tables = msprime.sim_ancestry(2, sequence_length=100, random_seed=1).dump_tables()
    for position, states in ((3, "C"), (7, "CG"), (9, "T")):
        site = tables.sites.add_row(position, "A")
        for node, state in enumerate(states):
            tables.mutations.add_row(site, node, state)
    haplotypes = Haplotypes.from_tree_sequence(tables.tree_sequence())
    assert haplotypes.positions.tolist() == [3, 9]
    assert "left out 1 with more than two alleles" in haplotypes.report


def test_from_tree_sequence__puts_the_haplotypes_of_an_individual_together():
    tables = msprime.sim_ancestry(2, sequence_length=100, random_seed=1).dump_tables()
    tables.nodes.individual = np.array([0, 1, 0, 1, *[-1] * (len(tables.nodes) - 4)], np.int32)
    tables.mutations.add_row(tables.sites.add_row(5, "A"), 2, "C")
    haplotypes = Haplotypes.from_tree_sequence(tables.tree_sequence())
    assert haplotypes.alleles.tolist() == [[0, 1, 0, 0]]
    assert haplotypes.ploidy.tolist() == [2, 2]


def test_slice__is_what_is_read_of_the_stretch(trees, of_trees):
    part = of_trees.slice(20_000, 50_000)
    again = Haplotypes.from_tree_sequence(trees, start=20_000, stop=50_000)
    np.testing.assert_array_equal(part.alleles, again.alleles)
    np.testing.assert_array_equal(part.positions, again.positions)
    assert 0 < part.num_sites < of_trees.num_sites
    assert (part.start, part.stop) == (again.start, again.stop) == (20_000, 50_000)
    with pytest.raises(ValueError, match=r"20000 <= start < stop <= 50000 is needed, got start=0, stop=30000"):
        part.slice(0, 30_000)


def test_take_samples__in_the_order_that_is_asked_for(of_trees):
    taken = of_trees.take_samples(["tsk_4", "tsk_1"])
    np.testing.assert_array_equal(taken.alleles, of_trees.alleles[:, [8, 9, 2, 3]])
    assert taken.samples == ("tsk_4", "tsk_1")
    with pytest.raises(ValueError, match=r"there is no sample NA1, NA2; the 6 samples are tsk_0, tsk_1"):
        of_trees.take_samples(["tsk_1", "NA1", "NA2"])
    with pytest.raises(ValueError, match="named twice"):
        of_trees.take_samples(["tsk_1", "tsk_1"])
    with pytest.raises(ValueError, match="one at least"):
        of_trees.take_samples([])


def test_take_haplotypes__each_is_a_sample_of_its_own(of_trees):
    taken = of_trees.take_haplotypes([3, 0])
    np.testing.assert_array_equal(taken.alleles, of_trees.alleles[:, [3, 0]])
    assert taken.samples == ("tsk_1#3", "tsk_0#0")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([0, 12], "between 0 and 11"), ([-1], "between 0 and 11"), ([[0, 1]], "in one row"), ([1, 1], "numbered twice")],
)
def test_take_haplotypes__that_are_not_there(of_trees, numbers, message):
    with pytest.raises(ValueError, match=message):
        of_trees.take_haplotypes(numbers)


def test_filter__counts_what_it_leaves_out():
    alleles = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [-1, -1, 0, 1], [0, 1, 1, 1], [1, 1, 0, 0]], np.int8)
    haplotypes = Haplotypes(alleles, [10, 20, 30, 40, 50], length=60)
    assert haplotypes.filter(min_minor_count=2).positions.tolist() == [20, 50]
    assert haplotypes.filter(max_missing=0.25).positions.tolist() == [10, 20, 40, 50]
    masked = haplotypes.filter(inaccessible=[(15, 31)], min_minor_count=2)
    assert masked.positions.tolist() == [50]
    assert masked.accessible.tolist() == [[0, 15], [31, 60]]
    assert masked.report == "left out 2 inaccessible, 2 with a minor count below 2"
    twice = masked.filter(accessible=[(0, 20), (40, 60)])
    assert twice.accessible.tolist() == [[0, 15], [40, 60]]


def test_repr__says_what_is_in_it():
    haplotypes = Haplotypes(
        np.array([[0, 1, -1], [1, 0, 0]]), [100, 1_500], contig="X", stop=2_000, samples="ab", ploidy=[1, 2]
    )
    assert repr(haplotypes) == (
        "Haplotypes of X:0-2,000\n"
        "    2 sites, 1 a kb, not polarised, 17 % missing alleles\n"
        "    3 haplotypes of 1 haploid and 1 diploid samples"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alleles": np.zeros((2, 0), int)}, "alleles of 0 haplotypes"),
        ({"alleles": np.array([[0, 2], [0, 0]])}, "alleles must be 0, 1, or -1 where missing, got 0 to 2"),
        ({"alleles": np.zeros((2, 2))}, "alleles must be integers"),
        ({"alleles": np.zeros((3, 2), int)}, "alleles of 3 sites and 2 positions"),
        ({"positions": [5, 5]}, r"positions must ascend, got 5 and then 5 \(site 1\)"),
        ({"positions": [5, np.nan]}, "finite"),
        ({"positions": np.array([5, 2**25], np.float32)}, "up to 33,554,432 are not exact in float32; give float64"),
        ({"positions": [5, 200]}, "a site at 200 is not between start 0 and 100"),
        ({"stop": 200}, "in a contig of length 100 is needed, got start=0, stop=200"),
        ({"samples": ["a", "b", "c"]}, "2 columns of alleles do not go with 3 samples"),
        ({"samples": ["a", "a"]}, "samples of one name: a"),
        ({"ploidy": [1.5, 1.5]}, "ploidy must be integers"),
        ({"stop": np.inf, "length": None}, "0 <= start < stop is needed, got start=0, stop=inf"),
        ({"accessible": [(5, 2)]}, r"start <= end, both finite, got \(5.0, 2.0\)"),
    ],
)
def test_haplotypes__what_does_not_go_together(changes, message):
    good = {"alleles": np.zeros((2, 2), int), "positions": [5, 6], "length": 100}
    Haplotypes(**good)
    with pytest.raises((ValueError, TypeError), match=message):
        Haplotypes(**(good | changes))


def test_tree_sequence__without_samples():
    with pytest.raises(ValueError, match="0 samples"):
        Haplotypes.from_tree_sequence(msprime.sim_ancestry(1, random_seed=1).simplify([]))


# Intervals


def test_intervals__as_sets_of_bases():
    rng = np.random.default_rng(1)
    for _ in range(50):
        sets = [rng.integers(0, 40, (rng.integers(1, 6), 2)) for _ in range(2)]
        one, other = (intervals.union(np.sort(pairs, axis=1).astype(float)) for pairs in sets)
        bases = np.arange(40)
        expected = [np.zeros(40, bool) for _ in range(2)]
        for pairs, expectation in zip(sets, expected, strict=True):
            for low, high in np.sort(pairs, axis=1):
                expectation[low:high] = True
        np.testing.assert_array_equal(intervals.contains(one, bases), expected[0])
        np.testing.assert_array_equal(intervals.contains(intervals.complement(one, 0, 40), bases), ~expected[0])
        np.testing.assert_array_equal(
            intervals.contains(intervals.intersection(one, other), bases), expected[0] & expected[1]
        )
        assert (np.diff(one.ravel()) > 0).all()


def test_bed__of_a_contig(write):
    text = "track name=x\n# a comment\nchr1\t10\t20\tname\nchr2\t0\t5\nchr1\t15\t30\nchr1 40 40\n\n"
    for path in (write(text, "a.bed"), write(gzip.compress(text.encode()), "a.bed.gz")):
        assert intervals.read_bed(path, "chr1").tolist() == [[10, 30]]
        with pytest.raises(GenomeFileError, match=r"no interval of contig '1'; it has chr1, chr2|chr2, chr1"):
            intervals.read_bed(path, "1")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffchr1\t10\t20\nchr1\t30\t40\n",
        "chr1\t10\t20\r\nchr1\t30\t40",
        " chr1 10 20\nchr1 \t30\t40\n",
        "browser position chr1:1-9\ntrack\tname=x\ntrack1\t5\t9\nchr1\t30\t40\nchr1\t10\t20\n",
        "chr1\t10\t20\ta\x85b\x0bchr1\t50\t60\nchr1\t30\t40\n",
        "chr1\t10\t20\tname\t0\t+\t10\t20\t0\t1\t10\t0\nchr1\t30\t40\n",
    ],
)
def test_bed__of_many_kinds(write, text):
    assert intervals.read_bed(write(text, "a.bed"), "chr1").tolist() == [[10, 20], [30, 40]]


def test_bed__through_a_pipe(tmp_path):
    text = "".join(f"chr1\t{2 * i}\t{2 * i + 1}\n" for i in range(10_000)).encode()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    read = intervals.read_bed(pipe, "chr1")
    writer.join()
    assert read.tolist() == [[2 * i, 2 * i + 1] for i in range(10_000)]


def test_bed__empty_intervals_are_a_warning(write, caplog):
    assert intervals.read_bed(write("chr1\t5\t5\nchr1\t7\t9\nchr2\t1\t1\n", "a.bed"), "chr1").tolist() == [[7, 9]]
    (record,) = caplog.records
    assert "a.bed: 1 of the 2 intervals of chr1 have start = end" in record.getMessage()
    caplog.clear()
    intervals.read_bed(write("chr1\t5\t6\nchr2\t1\t1\n", "a.bed"), "chr1")
    assert not caplog.records


@pytest.mark.parametrize("kind", ["accessible", "inaccessible"])
def test_bed__behind_the_end_of_the_contig_is_a_warning(write, caplog, kind):
    path = write(vcf("chr1 2 A C 0|1 0|0 0|0", "chr1 990 A C 0|1 0|0 0|0"))
    part = {"accessible": "chr1\t0\t5\n", "inaccessible": "chr1\t5\t6\n"}[kind]
    for text, number in (("chr1\t900\t1000\n", 0), ("chr1\t995\t1001\n", 1)):
        caplog.clear()
        read_haplotypes(path, **{kind: write(part + text, "a.bed")})
        warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warnings) == number
    assert "an interval of chr1 ends at 1,001, but the contig at 1,000 in the header of" in warnings[0]


@pytest.mark.parametrize("value", [np.ones((2, 3)), [0, 10], [[[0, 10]]]])
def test_intervals__that_are_no_pairs(write, value):
    with pytest.raises(ValueError, match=r"accessible must be .* pairs \(start, end\), got numbers of shape \("):
        read_haplotypes(write(vcf("chr1 2 A C 0|1 0|0 0|0")), accessible=value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "chr1\t1\t5\nchr1\t30\t20\n",
            r"a\.bed, line 2: an interval must have 0 <= start <= end, got start 30, end 20",
        ),
        ("chr1\tx\t20\n", r"a\.bed, line 1: not a line of BED, contig, start and end: 'chr1\\tx\\t20'"),
        ("chr1\n", "line 1: not a line of BED"),
        ("", "no interval of contig 'chr1'; it has no interval at all"),
        (gzip.compress(b"chr1\t1\t5\n" * 100, mtime=0)[:-9], "damaged or cut short"),
        (b"\xff\xfe\x00", "no text"),
        ("chr1\t1_0\t20\n", r"a\.bed, line 1: not a line of BED"),
        ("chr1\t1.5\t20\n", r"a\.bed, line 1: not a line of BED"),
        ("chrom\tstart\tend\n", r"a\.bed, line 1: not a line of BED"),
        (bgzip(b"chr1\t1\t5\n" * 100)[:-28], "cut short, because the last block of bgzip is missing"),
    ],
)
def test_bed__that_does_not_parse(write, text, message):
    path = write(text, "a.bed")
    data = write(vcf("chr1 2 A C 0|1 0|0 0|0"))
    with pytest.raises(GenomeFileError, match=message):
        read_haplotypes(data, accessible=path)


# Two readers


def same(one, other):
    np.testing.assert_array_equal(one.alleles, other.alleles)
    np.testing.assert_array_equal(one.positions, other.positions)
    for name in ("contig", "start", "stop", "length", "samples", "is_polarised", "is_phased", "report"):
        assert getattr(one, name) == getattr(other, name), name
    np.testing.assert_array_equal(one.ploidy, other.ploidy)
    if one.accessible is not None:
        np.testing.assert_array_equal(one.accessible, other.accessible)


def both(path, **options):
    """What both readers read, which must be the same."""
    one, other = (read_haplotypes(path, reader=reader, **options) for reader in ("stream", "cyvcf2"))
    same(one, other)
    return one


def test_read__a_vcf_of_a_simulation_by_both_readers(trees, of_trees, tmp_path):
    path = tmp_path / "sim.vcf"
    with open(path, "w") as file:
        trees.write_vcf(file, contig_id="chr1", position_transform=lambda x: np.array(x) + 1)
    read = both(path)
    np.testing.assert_array_equal(read.alleles, of_trees.alleles)
    np.testing.assert_array_equal(read.positions, of_trees.positions)
    assert read.samples == of_trees.samples
    both(path, samples=["tsk_3", "tsk_0"])
    both(path, accessible=[(1_000, 30_000), (50_000, 70_000)])
    text = path.read_bytes()
    for name, content in (("sim.vcf.gz", gzip.compress(text)), ("bg.vcf.gz", bgzip(text))):
        path = tmp_path / name
        path.write_bytes(content)
        np.testing.assert_array_equal(both(path).alleles, of_trees.alleles)


def test_read__trees(trees, of_trees, tmp_path):
    trees.dump(tmp_path / "sim.trees")
    np.testing.assert_array_equal(read_haplotypes(tmp_path / "sim.trees").alleles, of_trees.alleles)
    part = read_haplotypes(
        tmp_path / "sim.trees", region=("chr5", 1000, 50_000), samples=["tsk_1"], inaccessible=[(0, 2000)]
    )
    assert part.contig == "chr5"
    assert part.num_haplotypes == 2
    assert part.positions[0] >= 2000
    (tmp_path / "bad.trees").write_bytes((tmp_path / "sim.trees").read_bytes()[:1000])
    with pytest.raises(GenomeFileError, match=r"bad\.trees: not a readable tree sequence"):
        read_haplotypes(tmp_path / "bad.trees")


@pytest.mark.filterwarnings("default")  # of what tszip uses
def test_read__tsz(trees, of_trees, tmp_path):
    tszip = pytest.importorskip("tszip")
    tszip.compress(trees, tmp_path / "sim.tsz")
    same(read_haplotypes(tmp_path / "sim.tsz", region="1"), of_trees)
    (tmp_path / "bad.tsz").write_bytes((tmp_path / "sim.tsz").read_bytes()[:1000])
    with pytest.raises(GenomeFileError, match=r"bad\.tsz: not a readable tree sequence"):
        read_haplotypes(tmp_path / "bad.tsz")


ALL_KINDS = [
    "chr1 5 A C 0|1 1|1 .|.",
    "chr1 7 A C,G 0|1 1|2 0|0",
    "chr1 9 AT A 0|1 1|1 0|0",
    "chr1 9 A T 0|. .|1 0/0",
    "chr1 12 A . 0|0 0|0 0|0",
    "chr1 13 A <DEL> 0|0 0|1 0|0",
    "chr1 14 A * 0|0 0|1 0|0",
    "chr1 15 A G q10 . GT 0|0 0|1 0|0",
    "chr1 16 A G . AA=g|xx GT:DP 0|0:3 0|1:12 1|1",
    "chr1 17 c G PASS DP=4;AA=C GT 1|0 0|1 1|1",
    "chr1 18 C G PASS AA=N GT 1|0 0|1 1|1",
]


def test_read__kinds_of_records_by_both_readers(write):
    path = write(vcf(*ALL_KINDS))
    read = both(path)
    assert read.positions.tolist() == [4, 8, 15, 16, 17]
    assert read.alleles[:3].tolist() == [[0, 1, 1, 1, -1, -1], [0, -1, -1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert not read.is_polarised
    for words in (
        "1 multi-allelic",
        "3 indels or other records that are no SNP",
        "1 without an alternative allele",
        "1 that did not pass a filter",
    ):
        assert words in read.report
    assert both(path, only_pass=False).positions.tolist() == [4, 8, 14, 15, 16, 17]
    assert both(path, ancestral="REF").is_polarised
    polarised = both(path, ancestral="AA")
    assert polarised.is_polarised
    assert polarised.positions.tolist() == [15, 16]
    assert polarised.alleles.tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 1, 1, 1]]
    assert "3 without a known ancestral allele" in polarised.report
    crlf = write(path.read_bytes().replace(b"\n", b"\r\n"), "crlf.vcf")
    np.testing.assert_array_equal(read_haplotypes(crlf).alleles, read.alleles)
    without_end = write(path.read_bytes()[:-1], "end.vcf")
    np.testing.assert_array_equal(read_haplotypes(without_end).alleles, read.alleles)


@pytest.mark.parametrize("size", [1, 7, 100, 333])
def test_stream__does_not_depend_on_how_much_is_read_at_once(write, monkeypatch, size):
    path = write(vcf(*ALL_KINDS, "chr1 20 A C 0/1 1|1 0|0", "chr1 22 A C 0/1 1/0 0|0"))
    whole = read_haplotypes(path, on_unphased="random", phase_seed=3)
    monkeypatch.setattr("definetti_np.genomes.vcf.BYTES_AT_ONCE", size)
    same(read_haplotypes(path, on_unphased="random", phase_seed=3), whole)


def test_read__mixed_ploidy_by_both_readers(write):
    read = both(write(vcf("chr1 5 A C 0|1 1 .", "chr1 9 A C . 0 1")))
    assert read.ploidy.tolist() == [2, 1, 1]
    assert read.alleles.tolist() == [[0, 1, 1, -1], [-1, -1, 0, 1]]
    assert "2 haploid and 1 diploid samples" in repr(read)
    haploid = both(write(vcf("chr1 5 A C 0 1 .", "chr1 9 A C 1 0 1")))
    assert haploid.alleles.tolist() == [[0, 1, -1], [1, 0, 1]]


def test_read__hemizygous_samples_written_as_diploid(write):
    read = both(write(vcf("chr1 5 A C 0|. 1|. 0|1", "chr1 9 A C 1|. 0|. 1|1")))
    assert read.alleles.tolist() == [[0, 1, 0, 1], [1, 0, 1, 1]]
    assert read.ploidy.tolist() == [1, 1, 2]
    assert "left out 2 haplotypes without any allele (hemizygous samples?)" in read.report


def test_read__ploidy_that_changes_names_the_line(write):
    path = write(vcf("chr1 5 A C 0|1 1 0|0", "chr1 9 A C 0|1 1|1 0|0"))
    with pytest.raises(GenomeFileError, match=r"data\.vcf, line 10: sample 'b' is haploid before and diploid here"):
        read_haplotypes(path)
    with pytest.raises(GenomeFileError, match=r"chr1:9: sample 'b' is haploid before and diploid here"):
        read_haplotypes(path, reader="cyvcf2")


def test_read__unphased_genotypes(write):
    path = write(vcf(*[f"chr1 {p} A C 0/1 1|1 0/0" for p in range(1, 200)]))
    with pytest.raises(
        GenomeFileError, match=r"data\.vcf, line 9: the genotype of sample 'a' is not phased; .*phase_se"
    ):
        read_haplotypes(path)
    kept = both(path, on_unphased="genotypes")
    assert not kept.is_phased
    assert "unphased" in repr(kept)
    with pytest.raises(ValueError, match="phase_seed"):
        read_haplotypes(path, on_unphased="random")
    random = both(path, on_unphased="random", phase_seed=5)
    assert random.is_phased
    assert (random.alleles.sum(axis=1) == 3).all()
    assert 60 < random.alleles[:, 0].sum() < 140
    assert "199 unphased genotypes at random phase" in random.report
    homozygous = both(write(vcf("chr1 5 A C 0/0 1/1 ./.", "chr1 6 A C 0|1 1/1 0/0")))
    assert homozygous.is_phased


# Regions


@pytest.fixture
def indexed(tmp_path):
    """A bgzip-ed VCF of two contigs with an index, made by cyvcf2 from a BCF."""
    import cyvcf2

    records = [f"{c} {p} A C 0|1 1|1 0|0" for c in ("chr1", "chr2") for p in range(5, 500, 3)]
    plain = tmp_path / "plain.vcf"
    plain.write_text(vcf(*records))
    paths = {"plain": plain}
    for name, mode in (("bcf", "wb"), ("vcf.gz", "wz")):
        reader = cyvcf2.VCF(str(plain))
        path = tmp_path / f"data.{name}"
        writer = cyvcf2.Writer(str(path), reader, mode)
        for record in reader:
            writer.write_record(record)
        writer.close()
        paths[name] = path
    return paths


@pytest.mark.parametrize(
    "region", ["chr2", "chr2:10-100", "chr1:11-", ("chr1", 9, 200), ("chr2", 300, None), "chr2:1,1-2,0"]
)
def test_region__of_a_stream(indexed, region):
    read = read_haplotypes(indexed["plain"], region=region)
    contig = "chr2" if "chr2" in region else "chr1"
    assert read.contig == contig
    expected = np.arange(4, 499, 3)
    expected = expected[(expected >= read.start) & (expected < read.stop)]
    assert read.positions.tolist() == expected.tolist()
    wanted = {"chr2:10-100": (9, 100), "chr1:11-": (10, 1000), ("chr1", 9, 200): (9, 200), "chr2:1,1-2,0": (10, 20)}
    if region in wanted:
        assert (read.start, read.stop) == wanted[region]


@pytest.mark.parametrize("region", ["chr1", "chr2", 5, "", ("chr1", 5), ("chr1", 7, 5), "chr1:9-5", "chr1:0-5"])
def test_region__that_is_none(indexed, region):
    if region in ("chr1", "chr2"):
        assert read_haplotypes(indexed["plain"], region=region).num_sites == 165
    else:
        with pytest.raises(ValueError, match="region"):
            read_haplotypes(indexed["plain"], region=region)


def test_region__without_an_index_says_so(indexed, caplog):
    caplog.set_level(logging.INFO, "definetti_np")
    read_haplotypes(indexed["vcf.gz"], region="chr2:10-100")
    assert "with an index (tabix -p vcf) it would be faster" in caplog.text


RETURNING = [f"{c} {p} A C 0|1 1|1 0|0" for c, p in (("chr1", 5), ("chr2", 5), ("chr3", 5), ("chr1", 9))]


@pytest.mark.parametrize("size", [1, 100, 2**20])
@pytest.mark.parametrize("region", ["chr1", "chr1:1-7", ("chr1", 0, 4)])
def test_region__of_a_stream_misses_no_site_of_a_contig_that_returns(write, monkeypatch, region, size):
    monkeypatch.setattr("definetti_np.genomes.vcf.BYTES_AT_ONCE", size)
    path = write(vcf(*RETURNING))
    with pytest.raises(
        GenomeFileError, match=r"data\.vcf, line 12: contig 'chr1' comes again .* line 10; sort the file"
    ):
        read_haplotypes(path, region=region)
    assert read_haplotypes(path, region="chr2").num_sites == 1


def test_region__of_a_stream_misses_no_site_behind_its_end(write):
    path = write(vcf("chr1 5 A C 0|1 1|1 0|0", "chr1 50 A C 0|1 1|1 0|0", "chr1 7 A C 0|1 1|1 0|0"))
    with pytest.raises(GenomeFileError, match="line 11: position 7 comes after 50; sort the file"):
        read_haplotypes(path, region="chr1:1-10")


def test_region__of_a_stream_passes_over_no_header_of_other_samples(write):
    text = vcf("chr1 5 A C 0|1 1|1 0|0") + vcf("chr2 5 A C 0|1 1|1 0|0", samples="c b a")
    for region in ("chr1", "chr2"):
        with pytest.raises(GenomeFileError, match="line 10: a line of a header among the records; join files with"):
            read_haplotypes(write(text), region=region)


def write_index(path, text, compressed, contigs, block=300):
    """Write a .tbi in which each contig is one bin, the largest, from its first record to the end of the last."""
    starts = [0]  # of the blocks in the compressed file
    while starts[-1] < len(compressed):
        starts.append(starts[-1] + struct.unpack_from("<H", compressed, starts[-1] + 16)[0] + 1)

    def virtual(offset):
        return starts[offset // block] << 16 | offset % block

    names = b"".join(name.encode() + b"\0" for name in contigs)
    index = b"TBI\1" + struct.pack("<8i", len(contigs), 2, 1, 2, 0, ord("#"), 0, len(names)) + names
    for name in contigs:
        first = text.index(f"\n{name}\t".encode()) + 1
        last = text.index(b"\n", text.rindex(f"\n{name}\t".encode()) + 1) + 1
        index += struct.pack("<iIiQQiQ", 1, 0, 1, virtual(first), virtual(last), 1, virtual(first))
    path.write_bytes(bgzip(index))


def test_region__of_a_file_with_an_index_is_that_of_the_stream(write, monkeypatch):
    records = [f"{c} {p} A C 0|1 1|1 0|0" for c in ("chr1", "chr2") for p in range(5, 500, 3)]
    records.insert(200, "chr2 107 ATTT A 0|1 1|1 0|0")  # a deletion that reaches into a region
    text = vcf(*records).encode()
    path = write(bgzip(text), "indexed.vcf.gz")
    write_index(path.with_name("indexed.vcf.gz.tbi"), text, path.read_bytes(), ("chr1", "chr2"))
    for region in ("chr2", "chr2:109-300", ("chr1", 9, 200), ("chr2", 300, None)):
        indexed = both(path, region=region)
        assert indexed.num_sites > 10
        monkeypatch.setattr("definetti_np.genomes.reader.VcfStream", None)  # the index is used without being asked for
        np.testing.assert_array_equal(read_haplotypes(path, region=region).alleles, indexed.alleles)
        monkeypatch.undo()
    with pytest.raises(GenomeFileError, match="there is no contig '1'; the file has chr1, chr2"):
        read_haplotypes(path, region="1")
    with pytest.raises(GenomeFileError, match=r"no SNP of chr2:600-700 is left; left out: there is no record"):
        read_haplotypes(path, region="chr2:600-700")


@pytest.fixture
def with_index(write):
    """The path of a bgzip of two contigs with an index, and where its blocks begin."""
    text = vcf(*[f"{c} {p} A C 0|1 1|1 0|0" for c in ("chr1", "chr2") for p in range(5, 500, 3)]).encode()
    path = write(bgzip(text), "indexed.vcf.gz")
    write_index(path.with_name("indexed.vcf.gz.tbi"), text, path.read_bytes(), ("chr1", "chr2"))
    content, starts = path.read_bytes(), [0]
    while starts[-1] < len(content):
        starts.append(starts[-1] + struct.unpack_from("<H", content, starts[-1] + 16)[0] + 1)
    return path, starts


@pytest.mark.parametrize("byte", [0, 17, 20, 60, -1])
def test_region__of_a_damaged_block_is_an_error_of_those_who_need_it(with_index, byte):
    path, starts = with_index
    content = bytearray(path.read_bytes())
    block = starts[len(starts) // 4]
    content[(block if byte >= 0 else starts[len(starts) // 4 + 1]) + byte] ^= 0xFF
    path.write_bytes(content)
    assert read_haplotypes(path, region="chr2", reader="cyvcf2").num_sites == 165
    with pytest.raises(GenomeFileError, match=rf"damaged at byte {block}, or indexed\.vcf\.gz\.tbi is the index of an"):
        read_haplotypes(path, region="chr1", reader="cyvcf2")


def test_region__of_a_file_that_is_not_that_of_the_index(with_index):
    path, _ = with_index
    path.write_bytes(bgzip(vcf(*[f"chr2 {p} A C 0|1 1|1 0|0" for p in range(5, 900)]).encode(), block=411))
    with pytest.raises(GenomeFileError, match="damaged at byte"):
        read_haplotypes(path, region="chr2", reader="cyvcf2")


@pytest.mark.parametrize("content", [b"", b"TBI", bgzip(b"TBI\1"), bgzip(b"hello, world"), bgzip(b"CSI\1")[:-40]])
def test_region__with_an_index_that_is_none(with_index, content):
    path, _ = with_index
    index = path.with_name("indexed.vcf.gz.tbi")
    index.write_bytes(content)
    with pytest.raises(GenomeFileError, match=r"indexed\.vcf\.gz\.tbi: not a readable index"):
        read_haplotypes(path, region="chr1", reader="cyvcf2")


def test_region__an_index_older_than_the_file_is_not_used(with_index, monkeypatch, caplog):
    path, _ = with_index
    os.utime(path.with_name("indexed.vcf.gz.tbi"), (1, 1))
    caplog.set_level(logging.INFO, "definetti_np")
    assert read_haplotypes(path, region="chr1", reader="cyvcf2").num_sites == 165
    assert "tbi is older than" in caplog.text
    monkeypatch.setattr("definetti_np.genomes.reader.open_with_cyvcf2", None)
    assert read_haplotypes(path, region="chr1").num_sites == 165
    assert "with an index that is not older than the file" in caplog.text


def test_index__the_blocks_of_a_region_of_a_csi(tmp_path):
    data = tmp_path / "data.bcf"
    data.write_bytes(bgzip(bytes(1200)))
    blocks = [0]
    for _ in range(4):
        blocks.append(blocks[-1] + struct.unpack_from("<H", data.read_bytes(), blocks[-1] + 16)[0] + 1)
    shift, depth = 14, 1  # bin 0 is of all, bins 1 to 8 of 2**14 bp each, bin 10 of htslib's own numbers
    bins = {
        1: (blocks[0] << 16 | 5, blocks[1] << 16),
        3: (blocks[2] << 16, blocks[2] << 16 | 9),
        10: (7 << 16, 8 << 16),
    }
    content = b"CSI\1" + struct.pack("<4i", shift, depth, 0, 2) + struct.pack("<i", 0) + struct.pack("<i", len(bins))
    for number, chunk in bins.items():
        content += struct.pack("<IQiQQ", number, 0, 1, *chunk)
    (tmp_path / "data.bcf.csi").write_bytes(bgzip(content))
    damaged = bytearray(data.read_bytes())
    damaged[blocks[2] + 30] ^= 0xFF
    data.write_bytes(damaged)
    for region in (("b", 0, 2**14), ("b", 2**15 - 1, 2**15), ("a", 0, None), ("c", 0, None)):
        check_blocks(data, Region.checked(region), ["a", "b", "c"])
    for region in (("b", 2**15, 2**15 + 1), ("b", 0, 2**15 + 1), ("b", 0, None)):
        with pytest.raises(GenomeFileError, match=f"damaged at byte {blocks[2]}"):
            check_blocks(data, Region.checked(region), ["a", "b", "c"])


def test_bcf__is_read_with_cyvcf2(indexed):
    with pytest.raises(GenomeFileError, match="contig 'chr2' after 'chr1'; a scan is of one contig"):
        read_haplotypes(indexed["bcf"])
    with pytest.raises(ValueError, match='reader="stream" reads VCF'):
        read_haplotypes(indexed["bcf"], reader="stream")
    with pytest.raises(GenomeFileError, match="a region needs an index"):
        read_haplotypes(indexed["bcf"], region="chr1")


def test_bcf__that_is_cut_short(indexed):
    for name in ("bcf", "vcf.gz"):
        content = indexed[name].read_bytes()
        for size in (len(content) - len(END_OF_BGZIP), len(content) // 2, 40):
            indexed[name].write_bytes(content[:size])
            with pytest.raises(GenomeFileError, match="cut short"):
                read_haplotypes(indexed[name], reader="cyvcf2")


def test_contigs__several_without_a_region_and_one_that_is_not_there(indexed, write):
    with pytest.raises(GenomeFileError, match=r"plain\.vcf, line 174: contig 'chr2' after 'chr1'.*of chr1, chr2"):
        read_haplotypes(indexed["plain"])
    for reader in ("stream", None):
        with pytest.raises(GenomeFileError, match=r"there is no contig '1'; the file has chr1, chr2"):
            read_haplotypes(indexed["plain"], region="1", reader=reader)
    bare = write(vcf("chr1 5 A C 0|1 1|1 0|0", "chr9 5 A C 0|1 1|1 0|0", header="##fileformat=VCFv4.2\n"), "bare.vcf")
    with pytest.raises(GenomeFileError, match=r"there is no contig '1'; the file has chr1, chr9"):
        read_haplotypes(bare, region="1")


# What is wrong with files

GOOD = "chr1 5 A C 0|1 1|1 0|0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("hello\n", r"line 1: not a VCF, which begins with ##fileformat=VCF"),
        ("##fileformat=VCFv4.2\n", "the line of columns, #CHROM ..., is missing"),
        ("##fileformat=VCFv4.2\nchr1\t5\n", "line 2: the line of columns, #CHROM ..., is missing before this"),
        (vcf(), "it has a header and no record"),
        (vcf(samples=""), "line 8: it has no samples, so 0 haplotypes"),
        (vcf(GOOD, samples="a b a"), "samples of one name: a"),
        (vcf(GOOD).replace("\tFORMAT\t", "\tX\t"), "the columns must be"),
        (vcf(GOOD, "chr1 9 A C PASS . DP 3 4 5"), "line 10: it has no genotypes, because FORMAT is 'DP'"),
        (vcf(GOOD, "chr1 9 A C PASS . GTX 3 4 5"), "line 10: it has no genotypes, because FORMAT is 'GTX'"),
        (vcf(GOOD, "chr1 3 A C 0|1 1|1 0|0"), "line 10: position 3 comes after 5; sort the file"),
        (vcf(GOOD, GOOD), "line 10: a second SNP at position 5; join its alleles"),
        (vcf(GOOD, "chr1 9 A C 0|1 1|1"), "line 10: 11 columns, where the header has 12; the file may be cut short"),
        (vcf(GOOD, "chr1 9 A C 0|1 1|1", "chr1 10 A C PASS . GT 0|1 1|1 0|0 1|1"), "line 10: 11 columns"),
        (vcf(GOOD)[:-30] + "\n", "line 9: 3 columns, where the header has 12"),
        (vcf("chr1 x A C 0|1 1|1 0|0"), "line 9: POS must be an integer, got b'x'"),
        (vcf("chr1 5 A C 0|1 1|1 0/1/1"), "line 9: the genotype '0/1/1' of sample 'c' is none of a haploid or diploid"),
        (vcf("chr1 5 A C 0|1 2|1 0|0"), "line 9: the genotype '2|1' of sample 'b'".replace("|", r"\|")),
        (vcf("chr1 5 A C 0|1 ab1 0|0"), "line 9: the genotype 'ab1' of sample 'b'"),
        (vcf("chr1 5 A C .|. .|. .|."), "every allele is missing"),
        (vcf("chr1 5 A C,G 0|0 0|1 0|2"), "no SNP of any contig is left; left out: 1 multi-allelic"),
        (
            gzip.compress(vcf(*[GOOD.replace(" 5 ", f" {p} ") for p in range(1, 900)]).encode(), mtime=0)[:-30],
            "cut short",
        ),
        (gzip.compress(vcf(GOOD).encode(), mtime=0)[:20], "damaged or cut short"),
        (gzip.compress(vcf(GOOD).encode()[:-6], mtime=0)[:-8] + bytes(8), "damaged or cut short: CRC check failed"),
        (bgzip(vcf(GOOD).encode())[: -len(END_OF_BGZIP)], "cut short, because the last block of bgzip is missing"),
    ],
)
def test_vcf__that_is_wrong_is_named_with_its_line(write, text, message):
    path = write(text)
    with pytest.raises(GenomeFileError, match=message) as caught:
        read_haplotypes(path)
    assert str(caught.value).startswith(str(path))


def test_vcf__cut_short_names_the_last_line_that_was_read(write, monkeypatch):
    monkeypatch.setattr("definetti_np.genomes.vcf.BYTES_AT_ONCE", 1000)
    text = vcf(*[GOOD.replace(" 5 ", f" {p} ") for p in range(1, 900)]).encode()
    with pytest.raises(GenomeFileError, match=r"after line [1-9]\d{2}: damaged or cut short"):
        read_haplotypes(write(gzip.compress(text)[:-30]))


def test_cyvcf2__files_that_are_wrong(write):
    for text in (vcf(), vcf(GOOD, "chr1 3 A C 0|1 1|1 0|0"), vcf(GOOD, GOOD), vcf("chr1 5 A C 0|1 1|1 0/1/1")):
        with pytest.raises(GenomeFileError, match=r"data\.vcf"):
            read_haplotypes(write(text), reader="cyvcf2")


def test_read__arguments_that_are_wrong(write, tmp_path):
    path = write(vcf(GOOD))
    for options, message in (
        ({"on_unphased": "guess"}, "on_unphased: unknown choice 'guess'; choose from 'error', 'random', 'genotypes'"),
        ({"reader": "pysam"}, "reader: unknown choice 'pysam'"),
        ({"accessible": [(0, 5)], "inaccessible": [(0, 5)]}, "give only one"),
        ({"samples": ["x"]}, r"data\.vcf: there is no sample x; the 3 samples are a, b, c"),
        ({"samples": "a"}, "names of samples are needed"),
        ({"accessible": 5}, r"accessible must be the path of a BED file, or pairs \(start, end\), got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            read_haplotypes(path, **options)
    with pytest.raises(GenomeFileError, match="missing.vcf: cannot be read: No such file"):
        read_haplotypes(tmp_path / "missing.vcf")


def test_read__a_pipe_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GenomeFileError, match="pipe: not a file but a pipe or a device, .* write it to a file"):
        read_haplotypes(tmp_path / "pipe")


def test_read__without_the_extras_says_what_to_install(write, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cyvcf2", None)
    with pytest.raises(ImportError, match=r'pip install "definetti_np\[vcf\]"'):
        read_haplotypes(write(vcf(GOOD)), reader="cyvcf2")
    monkeypatch.setitem(__import__("sys").modules, "tszip", None)
    with pytest.raises(ImportError, match="pip install tszip"):
        read_haplotypes(write(b"PK\x03\x04....", "sim.tsz"))


def test_genomes__are_public():
    assert definetti_np.Haplotypes is Haplotypes
