"""The same results faster or in less memory; everything works without this folder, and a reader may skip it.

A definition marked `@fast_form("FILE")` elsewhere has its fast form in FILE.py here, under the same name. Nothing else
imports from this folder. Figures are of an image and a block of `vig_ti` (196 nodes, 192 channels, float32). [1] is
`python docs/compare/fast_forms.py` on one thread of a busy machine, where ratios say more than times; [2] is
docs/speed.md, on two threads, with its commands.

    file                  in place of                    brings                                          where
    maximum               autograd through all messages  α: 30 MB kept become 0.34; k-NN: 34, 0.04 [1]   everywhere
      winners in 1 byte   their numbers in 8             lrgc_ti in bfloat16 with `alpha`: 39 MB an      up to 256
                                                         image become 35 [2]                             sources
      an index's weights  a gradient of all pairs        3136 nodes of 32 channels, 10 edges each: 5.2  everywhere
                                                         MB kept become 2.9, and 1.3 GB backward none
    search                all messages at once           α: 448 ms become 22, forward and backward [1]   CPU, GPU
      scratch memory      fresh pages in every block     they can cost more than the search              CPU
      one interpolation   a difference, a product        3.4 ms become 2.3 [2]                           CPU, weights
      max-pooling         max and argmax                 0.66 ms become 0.18, of 28 targets [2]          CPU
      two strands         one chain of maxima            0.58 ms become 0.36 [2]                         compiled, CPU
    sparse                messages in memory             0.15 ms become 0.06 (k-NN), 2.2 become 0.35     CPU, if torch
                                                         (25 % of all pairs), without gradient [2]       has it
    alpha                 autograd's three steps         0.46 MB become 0.15 [1]; two to three times as  everywhere
                                                         slow backward: 0.2 ms become 0.5 [1]
    smallest              topk                           18 of 196: 0.19 ms become 0.07 [2]              CPU, float32,
                                                                                                         AVX2, numpy 2
    diagonal              a copy of all distances        0.04 ms become 0.002 [1]              not exported
    nearest               all N·M distances at once      128 MiB at most, at any size of image           everywhere
    rounds                all rounds of k-means          14 ms become 1.5 [1]; compiled in     CPU
                                                         seconds, not seven minutes
      of C-means          20 rounds that are unrolled    the same for a compiler                         compiled
    partitions            N² distances                   267 ms become 72, of 1764 nodes in 6            CPU
                                                         partitions [1]; nothing at 196
    position_rows         a float64 table of N²          674 ms become 100 for pvig_ti's first stage,    pyramids
                                                         1 thread [1]; at 448 pixels 1.3 GB become 40 MB
    kept                  a table for each block         graphs of places cost 0.01 ms [2]               not exported
    above                 bools stored one by one        svig_ti, compiled: 1.56 floors become 1.37 [2]  compiled, CPU
    compiler              (whether a program is being recorded, and operations opaque to a compiler)
"""
